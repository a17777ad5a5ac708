import { Worker } from "node:worker_threads";
import { PULSE_FD } from "./protocol.js";

/**
 * The thread's program, as text: it must beat within moments of the start, whatever compiles or loads the rest. A beat
 * is a byte: how often the engine's event loop turned, modulo 256.
 */
const PROGRAM = `
const { writeSync } = require("node:fs");
const { turns, fd } = require("node:worker_threads").workerData;
const timer = setInterval(() => {
  try {
    writeSync(fd, Uint8Array.of(Atomics.load(turns, 0) & 0xff));
  } catch {
    clearInterval(timer); // nobody listens any more
  }
}, 500);
`;

/**
 * Shows the parent process that this one is alive: a thread gives signs of it, also while a pass runs in this thread, and
 * each says how far this one got.
 */
export function showLife(): void {
  const turns = new Int32Array(new SharedArrayBuffer(4));
  setInterval(() => Atomics.add(turns, 0, 1), 250).unref();
  const thread = new Worker(PROGRAM, { eval: true, execArgv: [], workerData: { turns, fd: PULSE_FD } });
  thread.on("error", () => {});
  thread.unref();
}
