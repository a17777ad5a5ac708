import { setImmediate as nextTurn } from "node:timers/promises";
import { parentPort, Worker } from "node:worker_threads";
import { CoreService } from "./core-service.js";
import { type CoreMessage, type CoreReply, FrameWriter, PULSE_FD, REPLIES_FD } from "./protocol.js";

// The program of the thread or child process in which the model runs.

/**
 * The heartbeat thread's program, as text: it must beat within moments of the start, whatever compiles or loads the rest. A
 * beat is a byte: how often the engine's event loop turned, modulo 256.
 */
const HEARTBEAT = `
const { writeSync } = require("node:fs");
const { turns, fd } = require("node:worker_threads").workerData;
const timer = setInterval(() => {
  try {
    writeSync(fd, Uint8Array.of(Atomics.load(turns, 0) & 0xff));
  } catch {
    clearInterval(timer); // the parent is gone
  }
}, 500);
`;

/** Sends heartbeats to the parent process from a thread, also while a pass runs in this one. */
function startHeartbeat(): void {
  const turns = new Int32Array(new SharedArrayBuffer(4));
  setInterval(() => Atomics.add(turns, 0, 1), 250).unref();
  const thread = new Worker(HEARTBEAT, { eval: true, execArgv: [], workerData: { turns, fd: PULSE_FD } });
  thread.on("error", () => {});
  thread.unref();
}

function toParentProcess(): (reply: CoreReply) => void {
  const frames = new FrameWriter(REPLIES_FD);
  return (reply) => frames.write(reply);
}

const service = new CoreService(parentPort ? (reply) => parentPort?.postMessage(reply) : toParentProcess());

async function handle(message: CoreMessage): Promise<void> {
  await service.handle(message);
  if (message.kind !== "close") return;
  await nextTurn();
  if (parentPort) parentPort.close();
  else process.disconnect?.();
}

if (parentPort) parentPort.on("message", (message: CoreMessage) => void handle(message));
else {
  startHeartbeat();
  process.on("message", (message: CoreMessage) => void handle(message));
  process.on("disconnect", () => process.exit(0));
  // A signal to the whole process group is for the parent to handle: it drains, and then closes this process.
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => {});
}
