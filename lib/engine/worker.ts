import { setImmediate as nextTurn } from "node:timers/promises";
import { parentPort } from "node:worker_threads";
import { CoreService } from "./core-service.js";
import { FrameWriter } from "./frames.js";
import { type CoreMessage, type CoreReply, REPLIES_FD } from "./protocol.js";
import { showLife } from "./pulse.js";

// The thread or child process that the model lives in. It says nothing but what was asked for and what passes bring forth.

const service = new CoreService(parentPort ? (reply) => parentPort?.postMessage(reply) : toParentProcess());

function toParentProcess(): (reply: CoreReply) => void {
  const frames = new FrameWriter(REPLIES_FD);
  return (reply) => frames.write(reply);
}

async function handle(message: CoreMessage): Promise<void> {
  await service.handle(message);
  if (message.kind !== "close") return;
  await nextTurn();
  if (parentPort) parentPort.close();
  else process.disconnect?.();
}

if (parentPort) parentPort.on("message", (message: CoreMessage) => void handle(message));
else {
  showLife();
  process.on("message", (message: CoreMessage) => void handle(message));
  // Without its parent it has nothing to do. A signal for the whole group is the parent's to answer: it drains.
  process.on("disconnect", () => process.exit(0));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => {});
}
