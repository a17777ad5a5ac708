import { type ChildProcess, spawn } from "node:child_process";
import { constants } from "node:os";
import type { Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { Program } from "./program.js";

/** How a process came to its end. */
export interface Ending {
  rank: number;
  code: number | null;
  signal: NodeJS.Signals | null;
  /** Of a program that could not be started at all. */
  error?: Error;
}

/** As a shell counts: a signal is 128 and its number, a program that is not there 127. */
export function exitCodeOf({ code, signal, error }: Ending): number {
  if (error) return (error as NodeJS.ErrnoException).code === "ENOENT" ? 127 : 126;
  return signal === null ? (code ?? 1) : 128 + constants.signals[signal];
}

/** Takes what a process prints. */
export interface OutputTaker {
  /** @returns what has no room for more: the process waits until that drains, or fails */
  data(chunk: Buffer): Writable | undefined;
  end(): void;
}

/**
 * One process and all that it starts, in a process group and a session of their own: no signal of the terminal reaches
 * them but through this object.
 */
export class RankProcess {
  readonly rank: number;
  /** When the process itself has ended; what it started may go on. */
  readonly ending: Promise<Ending>;
  /** The number of the process and of its group; undefined if it could not be started. */
  readonly pid: number | undefined;
  readonly #child: ChildProcess | undefined;
  readonly #ends: Promise<void>[] = [];
  /** From then on its number may be another's. */
  #isGone = false;

  constructor(rank: number, { command, args }: Program, env: NodeJS.ProcessEnv) {
    this.rank = rank;
    try {
      const child = spawn(command, args, { env, detached: true, stdio: ["ignore", "pipe", "pipe"] });
      this.#child = child;
      this.ending = new Promise((resolve) => {
        child.once("error", (error) => resolve({ rank, code: null, signal: null, error }));
        child.once("exit", (code, signal) => resolve({ rank, code, signal }));
      });
    } catch (error) {
      // Some mistakes come as an event, others so: arguments too long, a null byte.
      this.ending = Promise.resolve({ rank, code: null, signal: null, error: error as Error });
    }
    this.pid = this.#child?.pid;
  }

  onOutput(name: "stdout" | "stderr", taker: OutputTaker): void {
    const source = this.#child?.[name];
    if (!source) return;
    source.on("data", (chunk: Buffer) => {
      const full = taker.data(chunk);
      if (full === undefined) return;
      source.pause();
      const go = () => {
        full.off("drain", go).off("error", go);
        source.resume();
      };
      full.on("drain", go).on("error", go);
    });
    const ended = new Promise<void>((resolve) => {
      source.once("close", () => {
        taker.end();
        resolve();
      });
    });
    this.#ends.push(ended);
  }

  /** Whether anything of the group is left. */
  get isAlive(): boolean {
    return this.signal(0);
  }

  /** Sends a signal to the whole group, as a terminal would; false if nobody is left in it. */
  signal(name: NodeJS.Signals | 0): boolean {
    if (this.pid === undefined || this.#isGone) return false;
    try {
      process.kill(-this.pid, name);
    } catch (error) {
      this.#isGone = (error as NodeJS.ErrnoException).code === "ESRCH"; // not EPERM: there, but another user's by now
    }
    return !this.#isGone;
  }

  /** Waits until nobody of the group is left, at most so long. */
  async gone(seconds: number): Promise<boolean> {
    const end = performance.now() + seconds * 1000;
    for (let pause = 2; this.isAlive; pause = Math.min(50, pause * 2)) {
      const left = end - performance.now();
      if (left <= 0) return false;
      await sleep(Math.min(pause, left));
    }
    return true;
  }

  /** Waits for the end of its output. A process that left the group may hold it open: nothing is awaited from that. */
  async outputEnded(): Promise<void> {
    const timer = setInterval(() => {
      for (const source of [this.#child?.stdout, this.#child?.stderr]) {
        if (source && !source.isPaused() && source.readableLength === 0) source.destroy();
      }
    }, 1000);
    await Promise.all(this.#ends);
    clearInterval(timer);
  }
}
