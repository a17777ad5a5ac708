import { parentPort, Worker } from "node:worker_threads";
import { answerRequests, type Setup } from "./answer.js";
import { FrameWriter, PULSE_FD, REPLIES_FD } from "./frames.js";
import type { Handlers, Request } from "./messages.js";

/**
 * Makes this thread or child process a worker: it answers the requests of the `WorkerClient` that started it. A child process
 * also sends heartbeats, and ends when its parent does.
 */
export function serve<H extends Handlers<H>, Event = never>(setup: Setup<H, Event>): void {
  if (parentPort) {
    const port = parentPort;
    const answer = answerRequests(setup, {
      send: (reply, buffers) => port.postMessage(reply, buffers as ArrayBuffer[] | undefined),
      stop: () => port.close(),
    });
    port.on("message", answer);
    return;
  }
  startHeartbeat();
  const frames = new FrameWriter(REPLIES_FD);
  const answer = answerRequests(setup, {
    send: (reply) => frames.write(reply),
    stop: () => void frames.flush().then(() => process.disconnect?.()),
  });
  process.on("message", (request: Request) => answer(request));
  process.on("disconnect", () => process.exit(0));
  // A signal to the whole process group is for the parent to handle: it drains, and then ends this process.
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => {});
}

/**
 * The heartbeat thread's program, as text: it must beat within moments of the start, whatever compiles or loads the rest. A
 * beat is a byte: how often the worker's event loop turned, modulo 256.
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

/** Sends heartbeats to the parent process from a thread, also while the main thread is busy. */
function startHeartbeat(): void {
  const turns = new Int32Array(new SharedArrayBuffer(4));
  setInterval(() => Atomics.add(turns, 0, 1), 250).unref();
  const thread = new Worker(HEARTBEAT, { eval: true, execArgv: [], workerData: { turns, fd: PULSE_FD } });
  thread.on("error", () => {});
  thread.unref();
}
