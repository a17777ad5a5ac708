/// <reference path="./fs-native-extensions.d.ts" />
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import * as z from "zod";
import { messageOf } from "../torch/errors.js";
import { TrainError } from "./errors.js";

/**
 * Contents of the lock file, which describe its holder: for people, and for file systems whose locks do not span
 * machines.
 */
const holderSchema = z.object({
  pid: z.int(),
  host: z.string(),
  /** Start time of the process in kernel ticks. It distinguishes processes that reuse a process id. */
  began: z.string().nullable(),
  /** Boot id of the kernel, and PID namespace. Containers on one machine share the boot id only. */
  boot: z.string().nullable().default(null),
  space: z.string().nullable().default(null),
  since: z.string(),
});
type Holder = z.infer<typeof holderSchema>;

/**
 * Number of times a locked file is read before the error names its holder, which may be about to write its name or to
 * exit.
 */
const ATTEMPTS = 20;
const PAUSE_MILLISECONDS = 25;

/**
 * Keeps a second process out of a run's folder. The kernel locks the file `lock` in it (fcntl, by open file
 * description) and releases the lock when the process ends, however it ends. So there are no stale locks, and a reused
 * process id or an equal one in a container is not mistaken for the holder. NFS forwards such locks to its server. If a
 * file system has no locks, or locks on one machine only, the contents of the file decide.
 */
export class RunLock implements Disposable {
  readonly #folder: string;
  readonly #restarted: boolean;
  #descriptor: number | undefined;

  private constructor(folder: string, restarted: boolean, descriptor: number) {
    this.#folder = folder;
    this.#restarted = restarted;
    this.#descriptor = descriptor;
  }

  /**
   * Locks an existing folder.
   *
   * @param options.restarted a launcher has restarted the run, possibly on another machine: a holder on another
   *   machine, which cannot be checked, is ignored
   * @throws TrainError TRAIN_RUN_LOCKED naming the process, and its machine if it is another one
   */
  static async acquire(folder: string, { restarted = false }: { restarted?: boolean } = {}): Promise<RunLock> {
    return new RunLock(folder, restarted, await lockFile(folder, restarted));
  }

  /** Whether the folder still contains this lock. It may have been removed, renamed or replaced. */
  get isInPlace(): boolean {
    return this.#descriptor !== undefined && isSameFile(this.#descriptor, join(this.#folder, "lock"));
  }

  /**
   * Recreates the folder if it is missing, and locks it.
   *
   * @throws TrainError TRAIN_RUN_LOCKED if another process has locked it first
   */
  async restore(): Promise<void> {
    mkdirSync(this.#folder, { recursive: true });
    const descriptor = await lockFile(this.#folder, this.#restarted);
    this.#leave();
    this.#descriptor = descriptor;
  }

  release(): void {
    const path = join(this.#folder, "lock");
    // While the file is locked, no other process may use it. A process that waits for it then finds that the path leads
    // to another file.
    if (this.isInPlace) rmSync(path, { force: true });
    this.#leave();
  }

  /** Releases the locked file, wherever it is now: a renamed folder becomes free. */
  #leave(): void {
    if (this.#descriptor === undefined) return;
    const descriptor = this.#descriptor;
    this.#descriptor = undefined;
    try {
      ftruncateSync(descriptor);
    } catch {
      // The disk may have failed. Closing the descriptor releases the lock.
    } finally {
      closeSync(descriptor);
    }
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

/** Opens and locks the file `lock` of a folder, and writes its holder to it. */
async function lockFile(folder: string, restarted: boolean): Promise<number> {
  const path = join(folder, "lock");
  for (let attempt = 1; ; attempt++) {
    const result = await tryLockFile(path, restarted).catch((cause: unknown) => {
      throw new TrainError("TRAIN_RUN_LOCKED", `${folder} cannot be locked: ${messageOf(cause)}`, { cause });
    });
    if (typeof result === "number") return result;
    const { holder, isSure } = result;
    if (isSure || attempt >= ATTEMPTS) throw locked(folder, path, holder);
    await sleep(PAUSE_MILLISECONDS);
  }
}

/**
 * @returns the descriptor of the locked file, or the holder and whether that is certain: a file that was just locked
 * does not name its holder yet
 */
async function tryLockFile(
  path: string,
  restarted: boolean,
): Promise<number | { holder: Holder | undefined; isSure: boolean }> {
  const { tryLock } = await import("fs-native-extensions");
  const descriptor = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o666);
  let result: number | undefined;
  try {
    let isLocked: boolean | undefined;
    try {
      isLocked = tryLock(descriptor);
    } catch (error) {
      if (!["ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP"].includes((error as NodeJS.ErrnoException).code ?? ""))
        throw error;
    }
    const holder = readHolder(descriptor);
    if (isLocked === false) return { holder, isSure: holder !== undefined && isRunning(holder) };
    // The last holder removed the file between opening and locking; the next holder creates another one.
    if (!isSameFile(descriptor, path)) return { holder: undefined, isSure: false };
    if (holder && mayLive(holder, isLocked === true, restarted)) return { holder, isSure: true };
    ftruncateSync(descriptor);
    writeSync(descriptor, `${JSON.stringify(ownRecord())}\n`, 0);
    result = descriptor;
    return descriptor;
  } finally {
    if (result === undefined) closeSync(descriptor);
  }
}

function readHolder(descriptor: number): Holder | undefined {
  try {
    return holderSchema.parse(JSON.parse(readFileSync(descriptor, "utf8")));
  } catch {
    return undefined; // empty, partly written, or not a lock file of this library
  }
}

function ownRecord(): Holder {
  const { pid } = process;
  const since = new Date().toISOString();
  return { pid, host: hostname(), began: beginningOf(pid), boot: bootId(), space: processSpace(), since };
}

/**
 * Whether another process may still hold the folder although this one could lock the file.
 *
 * @param isLocked false if the file system has no locks
 */
function mayLive(holder: Holder, isLocked: boolean, restarted: boolean): boolean {
  const { host, boot } = holder;
  const own = bootId();
  const isHere = boot !== null && own !== null ? boot === own : host === hostname();
  // A process on another machine cannot be checked, unless that machine is this one after a reboot.
  if (!isHere) return host !== hostname() && !restarted;
  if (isLocked && boot !== null) return false; // its kernel has released the lock
  return isRunning(holder);
}

/**
 * Whether a process of this machine is running. A process in another PID namespace cannot be checked and counts as
 * running.
 */
function isRunning({ pid, host, began, boot, space }: Holder): boolean {
  const isElsewhere = boot === null ? host !== hostname() : boot !== bootId() || space !== processSpace();
  if (isElsewhere) return true;
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
  }
  const now = beginningOf(pid);
  return began === null || now === null || began === now;
}

/**
 * Field 22 of /proc/PID/stat (start time), counted from behind the name, which may contain spaces. null without /proc.
 */
function beginningOf(pid: number): string | null {
  const stat = known(() => readFileSync(`/proc/${pid}/stat`, "utf8"));
  return stat?.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? null;
}

function bootId(): string | null {
  return known(() => readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim());
}

function processSpace(): string | null {
  return known(() => readlinkSync("/proc/self/ns/pid"));
}

/** Reads a value that exists on Linux only; null elsewhere. */
function known(read: () => string): string | null {
  try {
    return read();
  } catch {
    return null;
  }
}

function locked(folder: string, path: string, holder: Holder | undefined): TrainError {
  if (!holder) return new TrainError("TRAIN_RUN_LOCKED", `${folder} is in use by another process.`);
  const { pid, host, since } = holder;
  const here = host === hostname();
  const who = here ? `process ${pid}` : `process ${pid} on ${host}`;
  const hint = here ? "Stop it, or choose another folder" : `If it no longer runs, remove ${path}`;
  return new TrainError("TRAIN_RUN_LOCKED", `${folder} is in use by ${who} (since ${since}). ${hint}.`);
}

/** Whether a path still leads to an open file, which may have been removed, renamed or replaced. */
export function isSameFile(descriptor: number, path: string): boolean {
  const there = statSync(path, { throwIfNoEntry: false });
  if (!there) return false;
  const own = fstatSync(descriptor);
  return there.ino === own.ino && there.dev === own.dev;
}
