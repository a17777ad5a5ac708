// Loaded into the thread that writes checkpoints before anything else, when faults.ts is used: counts the writing calls
// there, and fails or kills as faults.ts says. Plain JavaScript, for it comes before the compiler.
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { getEnvironmentData, isMainThread } from "node:worker_threads";

const CALLS = ["mkdirSync", "writeSync", "fsyncSync", "renameSync"];
const state = getEnvironmentData("diffcoder writer faults");

if (!isMainThread && state) {
  for (const call of CALLS) {
    const original = fs[call];
    fs[call] = (...args) => {
      const count = Atomics.add(state, 0, 1) + 1;
      const from = Atomics.load(state, 1);
      const only = Atomics.load(state, 2);
      if (from > 0 && count >= from && (only === 0 || CALLS[only - 1] === call)) strike(call);
      return original(...args);
    };
  }
  syncBuiltinESMExports();
}

function strike(call) {
  const end = Atomics.load(state, 3);
  if (end === 1) process.kill(process.pid, "SIGKILL");
  if (end === 2) process.exit(3); // of this thread
  const name = call.replace("Sync", "");
  const error = new Error(`ENOSPC: no space left on device, ${name}`);
  throw Object.assign(error, { code: "ENOSPC", errno: -28, syscall: name });
}
