// The handlers that client.test.ts calls.
import { Transfer, type WorkerContext } from "../../lib/worker/index.js";

export interface AnswerHandlers {
  add(numbers: { a: number; b: number }): number;
  later(milliseconds: number): Promise<string>;
  fail(argument: undefined): never;
  failWords(argument: undefined): Promise<never>;
  /** Gives the bytes back, doubled. */
  double(bytes: Uint8Array<ArrayBuffer>): Transfer<Uint8Array>;
  /** A result that cannot be sent. */
  give(argument: undefined): unknown;
  count(steps: number): void;
  order(argument: undefined): number[];
  note(number: number): void;
  exit(code: number): void;
  kill(argument: undefined): void;
  throwLater(argument: undefined): void;
  stop(argument: undefined): string;
}

export function answers({ emit, stop }: WorkerContext<number>): AnswerHandlers {
  const noted: number[] = [];
  return {
    add: ({ a, b }) => a + b,
    later: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds, "late")),
    fail: () => {
      throw Object.assign(new RangeError("too far"), { code: "TOO_FAR", details: { limit: 3 } });
    },
    failWords: async () => {
      throw "just words";
    },
    double(bytes) {
      for (const [i, byte] of bytes.entries()) bytes[i] = 2 * byte;
      return new Transfer(bytes, [bytes.buffer]);
    },
    give: () => () => {},
    count: (steps) => {
      for (let i = 0; i < steps; i++) emit(i);
    },
    order: () => noted,
    note: (number) => void noted.push(number),
    exit: (code) => process.exit(code),
    kill: () => process.kill(process.pid, "SIGKILL"),
    throwLater: () => void setImmediate(() => Promise.reject(new Error("thrown later"))),
    stop: () => {
      stop();
      return "stopped";
    },
  };
}
