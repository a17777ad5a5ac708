import { type ChildProcess, spawn } from "node:child_process";
import { constants } from "node:os";
import type { Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { Program } from "./program.js";

/** How a process ended. */
export interface Ending {
  rank: number;
  code: number | null;
  signal: NodeJS.Signals | null;
  /** Set if the program could not be started. */
  error?: Error;
}

/** The exit code by the shell's convention: 128 plus the number of a signal, 127 for a missing program. */
export function exitCodeOf({ code, signal, error }: Ending): number {
  if (error) return (error as NodeJS.ErrnoException).code === "ENOENT" ? 127 : 126;
  return signal === null ? (code ?? 1) : 128 + constants.signals[signal];
}

/** Consumer of a process's output. */
export interface OutputTaker {
  /** @returns the stream whose buffer is full, if any: the process is paused until it drains or fails */
  data(chunk: Buffer): Writable | undefined;
  end(): void;
}

/**
 * A process and its descendants, in a separate process group and session: signals of the terminal reach them only
 * through this object.
 */
export class RankProcess {
  readonly rank: number;
  /** Resolves when the process itself has ended; its descendants may still be running. */
  readonly ending: Promise<Ending>;
  /** The id of the process and of its group; undefined if it could not be started. */
  readonly pid: number | undefined;
  readonly #child: ChildProcess | undefined;
  readonly #ends: Promise<void>[] = [];
  /** Set when the group is gone, because its id may then be reused. */
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
      // Some errors are emitted as an event, others are thrown: arguments that are too long, a null byte.
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

  /** Whether any process of the group is running. */
  get isAlive(): boolean {
    return this.signal(0);
  }

  /** Sends a signal to the whole group, as a terminal would; false if the group is empty. */
  signal(name: NodeJS.Signals | 0): boolean {
    if (this.pid === undefined || this.#isGone) return false;
    try {
      process.kill(-this.pid, name);
    } catch (error) {
      // not EPERM, which means that another user's process has the id now
      this.#isGone = (error as NodeJS.ErrnoException).code === "ESRCH";
    }
    return !this.#isGone;
  }

  /** Waits until the group is empty, at most this long. */
  async gone(seconds: number): Promise<boolean> {
    const end = performance.now() + seconds * 1000;
    for (let pause = 2; this.isAlive; pause = Math.min(50, pause * 2)) {
      const left = end - performance.now();
      if (left <= 0) return false;
      await sleep(Math.min(pause, left));
    }
    return true;
  }

  /** Waits for the end of its output, but not for a process that left the group and holds the pipe open. */
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
