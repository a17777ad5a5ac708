import { spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, it } from "vitest";
import { withLock } from "../../scripts/lib/lock.mjs";
import { projectRoot } from "../../scripts/lib/paths.mjs";
import { scratchFolder } from "./scratch.js";

const module = pathToFileURL(join(projectRoot, "scripts", "lib", "lock.mjs")).href;

/** A process that takes the lock, notes its begin and end in `log`, and holds the lock for a while in between. */
function holder(folder: string, name: string, milliseconds: number) {
  const script = `
    import { appendFileSync } from "node:fs";
    import { setTimeout as sleep } from "node:timers/promises";
    import { withLock } from ${JSON.stringify(module)};
    const note = (word) => appendFileSync(${JSON.stringify(join(folder, "log"))}, word + " ${name}\\n");
    await withLock(${JSON.stringify(join(folder, "lock"))}, async () => { note("begin"); await sleep(${milliseconds}); note("end"); });`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  return { child, ended: new Promise<number | null>((resolve) => child.on("close", resolve)) };
}

const logOf = (folder: string) =>
  existsSync(join(folder, "log")) ? readFileSync(join(folder, "log"), "utf8").trim().split("\n") : [];

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 20));
}

describe("two set-ups at once", () => {
  it("take turns", async () => {
    const folder = scratchFolder();
    const runs = ["a", "b", "c"].map((name) => holder(folder, name, 100));
    expect(await Promise.all(runs.map(({ ended }) => ended))).toEqual([0, 0, 0]);
    const log = logOf(folder);
    expect(log).toHaveLength(6);
    for (let i = 0; i < log.length; i += 2) {
      expect(log[i]).toMatch(/^begin/);
      expect(log[i + 1]).toBe(log[i]?.replace("begin", "end"));
    }
    expect(existsSync(join(folder, "lock"))).toBe(false);
  });

  it("one that waits says for whom", async () => {
    const folder = scratchFolder();
    const other = holder(folder, "first", 600);
    await until(() => logOf(folder).length === 1);
    const waits: (number | null)[] = [];
    const result = await withLock(join(folder, "lock"), async () => [...logOf(folder)], {
      onWait: (pid) => waits.push(pid),
      poll: 20,
    });
    expect(result).toEqual(["begin first", "end first"]);
    expect(waits).toEqual([other.child.pid]);
  });
});

/** How often each of four processes takes the lock: DIFFCODER_LOCK_RACES=1000 for the long version. */
const TURNS = Math.ceil(Number(process.env.DIFFCODER_LOCK_RACES ?? 100) / 4);

/** A process that takes the lock again and again, each time after it put one there that a killed process left. */
function racer(folder: string, gone: number) {
  const script = `
    import { closeSync, openSync, rmSync, writeFileSync } from "node:fs";
    import { hostname } from "node:os";
    import { withLock } from ${JSON.stringify(module)};
    const path = ${JSON.stringify(join(folder, "lock"))};
    const mark = ${JSON.stringify(join(folder, "inside"))};
    let together = 0;
    for (let turn = 0; turn < ${TURNS}; turn++) {
      try {
        writeFileSync(path, JSON.stringify({ pid: ${gone}, host: hostname() }), { flag: "wx" });
      } catch {}
      await withLock(path, async () => {
        try {
          closeSync(openSync(mark, "wx"));
          await new Promise((resolve) => setImmediate(resolve));
          rmSync(mark);
        } catch {
          together++;
        }
      }, { poll: 1 });
    }
    process.exitCode = together > 0 ? 1 : 0;`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  return new Promise<number | null>((resolve) => child.on("close", resolve));
}

describe("a lock that was left", () => {
  it(`is taken over by one of four processes, ${TURNS} times each`, async () => {
    const folder = scratchFolder();
    const gone = spawnSync(process.execPath, ["-e", ""]).pid;
    const codes = await Promise.all(Array.from({ length: 4 }, () => racer(folder, gone)));
    expect(codes).toEqual([0, 0, 0, 0]);
    expect(readdirSync(folder)).toEqual([]);
  }, 300_000);

  it("by a process that was killed while it took one over stops nobody", async () => {
    const folder = scratchFolder();
    const gone = JSON.stringify({ pid: spawnSync(process.execPath, ["-e", ""]).pid, host: hostname() });
    for (const name of ["lock", "lock.guard", "lock.guard.guard"]) writeFileSync(join(folder, name), gone);
    expect(await withLock(join(folder, "lock"), async () => "mine", { poll: 20 })).toBe("mine");
    expect(readdirSync(folder)).toEqual([]);
  });

  it("by a killed process is taken over at once", async () => {
    const folder = scratchFolder();
    const killed = holder(folder, "killed", 60_000);
    await until(() => logOf(folder).length === 1);
    killed.child.kill("SIGKILL");
    await killed.ended;
    expect(existsSync(join(folder, "lock"))).toBe(true);
    expect(await withLock(join(folder, "lock"), async () => "mine", { poll: 20 })).toBe("mine");
  });

  it.each(["SIGTERM", "SIGINT"] as const)("is removed by a process that ends with %s", async (signal) => {
    const folder = scratchFolder();
    const ending = holder(folder, "ending", 60_000);
    await until(() => logOf(folder).length === 1);
    ending.child.kill(signal);
    expect(await ending.ended).toBe(signal === "SIGTERM" ? 143 : 130);
    expect(existsSync(join(folder, "lock"))).toBe(false);
  });

  it("on another machine is respected while it is touched, and taken over when it is old", async () => {
    const path = join(scratchFolder(), "lock");
    writeFileSync(path, JSON.stringify({ pid: 1, host: `not-${hostname()}` }));
    let entered = false;
    const waiting = withLock(
      path,
      async () => {
        entered = true;
      },
      { poll: 20 },
    );
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(entered).toBe(false);
    const longAgo = new Date(Date.now() - 120_000);
    utimesSync(path, longAgo, longAgo);
    await waiting;
    expect(entered).toBe(true);
  });

  it("is released when the work throws", async () => {
    const path = join(scratchFolder(), "lock");
    await expect(withLock(path, async () => Promise.reject(new Error("no")))).rejects.toThrow("no");
    expect(existsSync(path)).toBe(false);
  });
});
