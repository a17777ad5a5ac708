// One set-up at a time per checkout.
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeSync,
} from "node:fs";
import { hostname } from "node:os";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** The owner touches its lock this often, so that one left by a killed set-up is told from a busy one. */
const beat = 5_000;
/** A lock that was not touched for this long belongs to nobody. */
const stale = 60_000;

function isAbandoned(path) {
  let owner;
  let touched;
  try {
    owner = JSON.parse(readFileSync(path, "utf8"));
    touched = statSync(path).mtimeMs;
  } catch (error) {
    // Gone: somebody else may have it next. Half written: its owner is writing it, or died doing so.
    if (error.code === "ENOENT") return false;
    try {
      return Date.now() - statSync(path).mtimeMs > beat;
    } catch {
      return false;
    }
  }
  if (Date.now() - touched > stale) return true;
  if (owner.host !== hostname()) return false;
  try {
    process.kill(owner.pid, 0);
    return false;
  } catch (error) {
    return error.code === "ESRCH";
  }
}

/**
 * Runs `work` while holding the lock file; waits for another holder.
 * @template T
 * @param {string} path
 * @param {() => Promise<T>} work
 * @param {{ onWait?: (pid: number | null) => void, poll?: number }} [options] onWait is called once, when there is a wait
 * @returns {Promise<T>}
 */
export async function withLock(path, work, { onWait = () => {}, poll = 250 } = {}) {
  mkdirSync(dirname(path), { recursive: true });
  let waited = false;
  for (;;) {
    try {
      const file = openSync(path, "wx");
      writeSync(file, JSON.stringify({ pid: process.pid, host: hostname() }));
      closeSync(file);
      break;
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
    }
    if (isAbandoned(path)) {
      // Renaming is atomic: of two waiters only one takes the dead lock away, and never a fresh one.
      const grave = `${path}.${process.pid}.dead`;
      try {
        renameSync(path, grave);
        rmSync(grave, { force: true });
      } catch (error) {
        if (error.code !== "ENOENT") throw error;
      }
      continue;
    }
    if (!waited) {
      waited = true;
      let pid = null;
      try {
        pid = JSON.parse(readFileSync(path, "utf8")).pid;
      } catch {
        // it may just have ended
      }
      onWait(pid);
    }
    await sleep(poll);
  }

  const timer = setInterval(() => {
    const now = new Date();
    try {
      utimesSync(path, now, now);
    } catch {
      // someone removed .cache; the work goes on
    }
  }, beat);
  timer.unref();
  const release = () => rmSync(path, { force: true });
  const onSignal = (signal) => {
    release();
    process.exit(signal === "SIGINT" ? 130 : 143);
  };
  process.once("exit", release);
  process.once("SIGINT", onSignal);
  process.once("SIGTERM", onSignal);
  try {
    return await work();
  } finally {
    clearInterval(timer);
    process.off("exit", release);
    process.off("SIGINT", onSignal);
    process.off("SIGTERM", onSignal);
    release();
  }
}
