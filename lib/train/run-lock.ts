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

/** What the file says of its holder: for people, and for file systems whose locks do not reach all machines. */
const holderSchema = z.object({
  pid: z.int(),
  host: z.string(),
  /** When the process began, in the kernel's own count: a number is used again by another process sooner or later. */
  began: z.string().nullable(),
  /** The kernel that counts, and the space of process numbers: containers of one machine share the former alone. */
  boot: z.string().nullable().default(null),
  space: z.string().nullable().default(null),
  since: z.string(),
});
type Holder = z.infer<typeof holderSchema>;

/** A file that is locked is looked at so often before its holder is named: it may be about to write its name, or to leave. */
const ATTEMPTS = 20;
const PAUSE_MILLISECONDS = 25;

/**
 * Keeps a second process out of a run's folder. The kernel locks the file `lock` in it (fcntl, by open file description),
 * and takes the lock away when its process ends, however it ends: there is no stale lock to be taken over, and neither a
 * process number that is used again nor a container with the same one is mistaken for the holder. NFS passes such locks on
 * to its server. Where a file system has no locks, or they reach one machine only, what the file says of its holder counts.
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
   * Locks a folder that exists.
   *
   * @param options.restarted a launcher ended the run and started it again, maybe on another machine: what the lock says of
   *   processes there, which cannot be looked for, does not count
   * @throws TrainError TRAIN_RUN_LOCKED naming the process, or the machine where it cannot be looked for
   */
  static async acquire(folder: string, { restarted = false }: { restarted?: boolean } = {}): Promise<RunLock> {
    return new RunLock(folder, restarted, await lockFile(folder, restarted));
  }

  /** Whether the folder still has this lock: it may have been removed, renamed or replaced. */
  get isInPlace(): boolean {
    return this.#descriptor !== undefined && isSameFile(this.#descriptor, join(this.#folder, "lock"));
  }

  /**
   * Makes the folder again where it is not there, and locks it.
   *
   * @throws TrainError TRAIN_RUN_LOCKED where another process was faster
   */
  async restore(): Promise<void> {
    mkdirSync(this.#folder, { recursive: true });
    const descriptor = await lockFile(this.#folder, this.#restarted);
    this.#leave();
    this.#descriptor = descriptor;
  }

  release(): void {
    const path = join(this.#folder, "lock");
    // While it is locked nobody else has a right to the file; whoever waits for it sees that it is no longer the one there.
    if (this.isInPlace) rmSync(path, { force: true });
    this.#leave();
  }

  /** Gives the locked file up, wherever it is now: a folder that was renamed is free. */
  #leave(): void {
    if (this.#descriptor === undefined) return;
    const descriptor = this.#descriptor;
    this.#descriptor = undefined;
    try {
      ftruncateSync(descriptor);
    } catch {
      // A disk in trouble. The lock itself ends with the descriptor.
    } finally {
      closeSync(descriptor);
    }
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

/** Opens and locks a folder's file `lock`, and writes who holds it. */
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

/** @returns the locked file, or who has it and whether that is sure: a file that is just being locked names nobody yet */
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
    // Removed by its last holder between opening and locking: the next one has another file.
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
    return undefined; // empty, half written, or no lock of ours
  }
}

function ownRecord(): Holder {
  const { pid } = process;
  const since = new Date().toISOString();
  return { pid, host: hostname(), began: beginningOf(pid), boot: bootId(), space: processSpace(), since };
}

/**
 * Whether a file that this process could lock may still be another's.
 *
 * @param isLocked false where the file system has no locks
 */
function mayLive(holder: Holder, isLocked: boolean, restarted: boolean): boolean {
  const { host, boot } = holder;
  const own = bootId();
  const isHere = boot !== null && own !== null ? boot === own : host === hostname();
  // Of a process on another machine nothing can be known, unless that machine is this one, started anew.
  if (!isHere) return host !== hostname() && !restarted;
  if (isLocked && boot !== null) return false; // its kernel took the lock away
  return isRunning(holder);
}

/** Whether a process of this machine is there; of one in another space of numbers nothing can be known. */
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

/** Field 22 of /proc/PID/stat, counted from behind the name, which may hold anything. null where there is no /proc. */
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

/** What Linux alone tells. */
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

/** Whether an open file is the one that a path leads to: it may have been removed, renamed or replaced since. */
export function isSameFile(descriptor: number, path: string): boolean {
  const there = statSync(path, { throwIfNoEntry: false });
  if (!there) return false;
  const own = fstatSync(descriptor);
  return there.ino === own.ino && there.dev === own.dev;
}
