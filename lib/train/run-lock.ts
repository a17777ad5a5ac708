import { linkSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import * as z from "zod";
import { TrainError } from "./errors.js";

const holderSchema = z.object({
  pid: z.int(),
  host: z.string(),
  /** When the process began, in the kernel's own count: a number is used again by another process sooner or later. */
  began: z.string().nullable(),
  since: z.string(),
});
type Holder = z.infer<typeof holderSchema>;

/** Keeps a second process out of a run's folder, by a file `lock` that names the first. */
export class RunLock implements Disposable {
  readonly #path: string;
  readonly #content: string;

  private constructor(path: string, content: string) {
    this.#path = path;
    this.#content = content;
  }

  /**
   * Locks a folder. A lock whose process is gone is taken over.
   *
   * @param options.restarted a launcher ended the run and started it again, maybe on another machine: what the lock says of
   *   processes there, which cannot be looked for, does not count
   * @throws TrainError TRAIN_RUN_LOCKED naming the process, or the machine where it cannot be looked for
   */
  static acquire(folder: string, { restarted = false }: { restarted?: boolean } = {}): RunLock {
    const path = join(folder, "lock");
    const own: Holder = {
      pid: process.pid,
      host: hostname(),
      began: beginningOf(process.pid),
      since: new Date().toISOString(),
    };
    const content = `${JSON.stringify(own)}\n`;
    const draft = `${path}.${process.pid}`;
    writeFileSync(draft, content);
    try {
      for (let attempt = 0; ; attempt++) {
        try {
          linkSync(draft, path); // unlike writing, this either makes the whole file or fails
          return new RunLock(path, content);
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== "EEXIST" || attempt > 2) throw error;
          const holder = readHolder(path);
          if (holder !== undefined && isAlive(holder, restarted)) throw locked(folder, path, holder);
          rmSync(path, { force: true });
        }
      }
    } finally {
      rmSync(draft, { force: true });
    }
  }

  release(): void {
    try {
      if (readFileSync(this.#path, "utf8") === this.#content) rmSync(this.#path, { force: true });
    } catch {
      // The folder was taken away: nothing is locked.
    }
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

function readHolder(path: string): Holder | undefined {
  try {
    return holderSchema.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch {
    return undefined; // gone in the meantime, or no lock of ours
  }
}

/** Of a process on another machine nothing can be known: it counts as alive. */
function isAlive({ pid, host, began }: Holder, restarted: boolean): boolean {
  if (host !== hostname()) return !restarted;
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
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? null;
  } catch {
    return null;
  }
}

function locked(folder: string, path: string, { pid, host, since }: Holder): TrainError {
  const here = host === hostname();
  const who = here ? `process ${pid}` : `process ${pid} on ${host}`;
  const hint = here ? "Stop it, or choose another folder" : `If it no longer runs, remove ${path}`;
  return new TrainError("TRAIN_RUN_LOCKED", `${folder} is in use by ${who} (since ${since}). ${hint}.`);
}
