import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";

/** The calls that a checkpoint is written with. */
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
