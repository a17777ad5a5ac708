import { type ChildProcess, fork, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { hostname } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { RunLock } from "../../lib/train/run-lock.js";
import type { LockOrder, LockReply } from "./lock-child.js";
import { temporaryFolder } from "./support.js";

/** Races for one lock: DIFFCODER_LOCK_RACES=1000 for the long version. */
const RACES = Number(process.env.DIFFCODER_LOCK_RACES ?? 60);
const CONTENDERS = 4;

const tsx = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;
const contenders: ChildProcess[] = [];

async function start(): Promise<ChildProcess> {
  const file = fileURLToPath(new URL("lock-child.ts", import.meta.url));
  const child = fork(file, { execArgv: ["--import", tsx], stdio: ["ignore", "inherit", "inherit", "ipc"] });
  await once(child, "message");
  return child;
}

async function ask(child: ChildProcess, order: LockOrder): Promise<LockReply> {
  const reply = once(child, "message");
  child.send(order);
  return (await reply)[0] as LockReply;
}

beforeAll(async () => {
  contenders.push(...(await Promise.all(Array.from({ length: CONTENDERS }, start))));
});
afterAll(() => {
  for (const child of contenders) child.kill("SIGKILL");
});

/** What a process that was killed left: its number is nobody's, or another's now. */
function leftBehind(race: number): string | undefined {
  const since = new Date().toISOString();
  const boot = existsSync("/proc/sys/kernel/random/boot_id")
    ? readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()
    : null;
  const gone = { pid: gonePid, host: hostname(), began: null, since };
  const records: (object | string | undefined)[] = [
    gone,
    { ...gone, boot, space: "pid:[1]" }, // of a container that ended
    { ...gone, pid: process.pid, began: "1" },
    "{ half writ",
    "",
    undefined,
  ];
  const record = records[race % records.length];
  return typeof record === "object" ? JSON.stringify(record) : record;
}
const gonePid = spawnSync(process.execPath, ["-e", ""]).pid;

describe("the lock of a run's folder", () => {
  it(`is one process's in ${RACES} races for one that was left behind`, async () => {
    const folder = temporaryFolder();
    const holders: number[] = [];
    for (let race = 0; race < RACES; race++) {
      const left = leftBehind(race);
      if (left !== undefined) writeFileSync(join(folder, "lock"), left);
      const replies = await Promise.all(contenders.map((child) => ask(child, { kind: "take", folder })));
      holders.push(replies.filter(({ kind }) => kind === "held").length);
      await Promise.all(contenders.map((child) => ask(child, { kind: "release" })));
    }
    expect(holders).toEqual(new Array(RACES).fill(1));
    expect(existsSync(join(folder, "lock"))).toBe(false);
  }, 600_000);

  it("lets one in at a time while processes come and go", async () => {
    const folder = temporaryFolder();
    const count = Math.ceil(RACES / CONTENDERS);
    const replies = await Promise.all(contenders.map((child) => ask(child, { kind: "turns", folder, count })));
    expect(replies).toEqual(new Array(CONTENDERS).fill({ kind: "turns", had: count, together: 0 }));
  }, 600_000);

  it("is free as soon as its process is killed", async () => {
    const folder = temporaryFolder();
    const child = await start();
    expect(await ask(child, { kind: "take", folder })).toEqual({ kind: "held" });
    const holder = { code: "TRAIN_RUN_LOCKED", message: expect.stringContaining(`in use by process ${child.pid} `) };
    await expect(RunLock.acquire(folder)).rejects.toMatchObject(holder);
    child.kill("SIGKILL");
    await once(child, "exit");
    (await RunLock.acquire(folder)).release();
  });

  it("is the same by every path to the folder", async () => {
    const folder = temporaryFolder();
    const other = join(temporaryFolder(), "link");
    symlinkSync(folder, other);
    using _lock = await RunLock.acquire(folder);
    for (const path of [other, join(folder, "..", folder.split("/").at(-1) as string)]) {
      await expect(RunLock.acquire(path)).rejects.toMatchObject({ code: "TRAIN_RUN_LOCKED" });
    }
  });

  it("of another machine is believed, unless a launcher started the run again", async () => {
    const folder = temporaryFolder();
    const record = { pid: 1, host: "elsewhere", began: "5", boot: "another", space: "pid:[1]", since: "yesterday" };
    writeFileSync(join(folder, "lock"), JSON.stringify(record));
    await expect(RunLock.acquire(folder)).rejects.toThrow(/process 1 on elsewhere.*remove .*lock/);
    (await RunLock.acquire(folder, { restarted: true })).release();
    // This machine was started anew.
    writeFileSync(join(folder, "lock"), JSON.stringify({ ...record, host: hostname() }));
    (await RunLock.acquire(folder)).release();
  });

  it("is known to be gone with its folder, and is taken again", async () => {
    const folder = join(temporaryFolder(), "run");
    mkdirSync(folder);
    const lock = await RunLock.acquire(folder);
    expect(lock.isInPlace).toBe(true);
    const renamed = `${folder} renamed`;
    renameSync(folder, renamed);
    expect(lock.isInPlace).toBe(false);
    await expect(RunLock.acquire(renamed)).rejects.toMatchObject({ code: "TRAIN_RUN_LOCKED" }); // it still writes there
    await lock.restore();
    expect(lock.isInPlace).toBe(true);
    (await RunLock.acquire(renamed)).release();

    rmSync(folder, { recursive: true });
    mkdirSync(folder);
    using other = await RunLock.acquire(folder);
    await expect(lock.restore()).rejects.toMatchObject({ code: "TRAIN_RUN_LOCKED" });
    lock.release();
    expect(other.isInPlace).toBe(true);
  });

  it("that is a link to another file leaves that as it is", async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, "precious"), "precious");
    symlinkSync("precious", join(folder, "lock"));
    await expect(RunLock.acquire(folder)).rejects.toMatchObject({ code: "TRAIN_RUN_LOCKED" });
    expect(readFileSync(join(folder, "precious"), "utf8")).toBe("precious");
  });
});
