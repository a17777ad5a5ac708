import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { setEnvironmentData } from "node:worker_threads";

/** The calls that files are written with. */
const CALLS = ["mkdirSync", "writeSync", "writeFileSync", "copyFileSync", "fsyncSync", "renameSync"] as const;

/**
 * Calls `strike` before every writing call of the process, with how many there were, until it is disposed of. What it
 * throws is what the caller sees.
 */
export function watchWrites(
  strike: (count: number, call: string, path: unknown) => void,
): Disposable & { count: number } {
  const module = fs as unknown as Record<string, (...args: unknown[]) => unknown>;
  const originals = CALLS.map((call) => [call, module[call]] as const);
  const watch = { count: 0, [Symbol.dispose]: () => restore() };
  for (const [call, original] of originals) {
    module[call] = (...args) => {
      strike(++watch.count, call, args[0]);
      return original(...args);
    };
  }
  syncBuiltinESMExports();
  const restore = () => {
    for (const [call, original] of originals) module[call] = original;
    syncBuiltinESMExports();
  };
  return watch;
}

/** What Node throws when the disk is full. */
export function diskFull(call: string): NodeJS.ErrnoException {
  const error: NodeJS.ErrnoException = new Error(`ENOSPC: no space left on device, ${call.replace("Sync", "")}`);
  return Object.assign(error, { code: "ENOSPC", errno: -28, syscall: call.replace("Sync", "") });
}

/** The calls that checkpoints are written with, in a thread of its own: see writer-faults.mjs, which says the same. */
const WRITER_CALLS = ["mkdirSync", "writeSync", "fsyncSync", "renameSync"] as const;

/** Calls up to now; the first that is struck, or 0; only calls of this kind, or 0; what happens: see ENDS. */
const state = new Int32Array(new SharedArrayBuffer(16));
setEnvironmentData("diffcoder writer faults", state);
// For the thread, which starts with the first save.
process.execArgv.push("--import", new URL("./writer-faults.mjs", import.meta.url).href);

/** What happens to the writing of checkpoints until it is disposed of. */
export interface WriterFaults extends Disposable {
  /** Writing calls since this began. */
  readonly count: number;
}

const ENDS = ["full disk", "killed process", "ended thread"] as const;

/** Makes the disk of the thread that writes checkpoints full, or worse, from its nth writing call on; 0 for never. */
export function failWriter(
  from: number,
  { only, end = "full disk" }: { only?: (typeof WRITER_CALLS)[number]; end?: (typeof ENDS)[number] } = {},
): WriterFaults {
  Atomics.store(state, 0, 0);
  Atomics.store(state, 2, only === undefined ? 0 : WRITER_CALLS.indexOf(only) + 1);
  Atomics.store(state, 3, ENDS.indexOf(end));
  Atomics.store(state, 1, from);
  return {
    get count() {
      return Atomics.load(state, 0);
    },
    [Symbol.dispose]: () => Atomics.store(state, 1, 0),
  };
}
