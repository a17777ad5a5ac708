// One set-up at a time per checkout.
import { randomUUID } from "node:crypto";
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

// Set-up runs before packages are there: no lock of the kernel's, as a run's folder has, but files that name their holder.

/** The owner touches its lock this often, so that one left by a killed set-up is told from a busy one. */
const beat = 5_000;
/** A lock of another machine that was not touched for this long belongs to nobody. */
const stale = 60_000;

/** What the lock file holds, if nobody has it any more; undefined if somebody may, or there is none. */
function abandoned(path) {
  let text;
  let touched;
  try {
    text = readFileSync(path, "utf8");
    touched = statSync(path).mtimeMs;
  } catch (error) {
    if (error.code === "ENOENT") return undefined; // gone: somebody else may have it next
    throw error;
  }
  const isOld = Date.now() - touched > stale;
  let owner;
  try {
    owner = JSON.parse(text);
  } catch {
    return isOld ? text : undefined; // no lock of ours
  }
  if (owner.host !== hostname()) return isOld ? text : undefined;
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    if (error.code === "ESRCH") return text;
  }
  // A process that is there, but began later, only has the number.
  const began = beginningOf(owner.pid);
  const isOther = owner.began === undefined ? isOld : began !== null && owner.began !== null && began !== owner.began;
  return isOther ? text : undefined;
}

/** When a process began, in the kernel's count; null where there is no /proc. */
function beginningOf(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? null;
  } catch {
    return null;
  }
}

/**
 * Takes a lock if nobody has it, without waiting.
 *
 * A lock that was left is replaced by whoever holds a second lock, which guards the first: else one process would look at
 * the lock that was left, another would take it over meanwhile, and the first would take that fresh one for the old. The
 * guard is taken in the same way, so that a process that dies here stops nobody.
 *
 * @returns {string | undefined} what the file holds now that it is this process's
 */
function tryTake(path) {
  const { pid } = process;
  const text = JSON.stringify({ pid, host: hostname(), began: beginningOf(pid), id: randomUUID() });
  const draft = `${path}.${randomUUID()}.tmp`;
  writeFileSync(draft, text);
  try {
    if (place(draft, path, text)) return text;
    const left = abandoned(path);
    if (left === undefined) return undefined;
    const guard = `${path}.guard`;
    const guardText = tryTake(guard);
    if (guardText === undefined) return undefined;
    try {
      if (abandoned(path) !== left) return undefined; // another took it over before the guard was here
      renameSync(draft, path); // in its place: at no moment is there no lock
      return text;
    } finally {
      drop(guard, guardText);
    }
  } finally {
    rmSync(draft, { force: true });
  }
}

/** Puts a lock where none is. A link either makes the whole file or fails; not every file system has them. */
function place(draft, path, text) {
  try {
    try {
      linkSync(draft, path);
    } catch (error) {
      if (error.code === "EEXIST") throw error;
      writeFileSync(path, text, { flag: "wx" });
    }
    return true;
  } catch (error) {
    if (error.code === "EEXIST") return false;
    throw error;
  }
}

/** Removes a lock if it is still the one that was taken. */
function drop(path, text) {
  try {
    if (readFileSync(path, "utf8") === text) rmSync(path, { force: true });
  } catch {
    // someone removed it, or its folder
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
  let text;
  for (;;) {
    text = tryTake(path);
    if (text !== undefined) break;
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
  const release = () => drop(path, text);
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
