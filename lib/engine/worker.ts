import { setImmediate as nextTurn } from "node:timers/promises";
import { parentPort } from "node:worker_threads";
import { EngineCore } from "./core.js";
import { EngineError } from "./errors.js";
import { loadModel } from "./load.js";
import { type CoreMessage, type CoreReply, errorParts, type WireReport } from "./protocol.js";

// The thread or child process that the model lives in. It says nothing but what was asked for and what passes bring forth.

const STATS_EVERY = 200; // ms

const send: (reply: CoreReply) => void = parentPort
  ? (reply) => parentPort?.postMessage(reply)
  : (reply) => void process.send?.(reply);

let core: EngineCore | undefined;
let statsAt = 0;

function report(reports: WireReport[]): void {
  const now = performance.now();
  const due = now - statsAt > STATS_EVERY || reports.some(({ last }) => last);
  if (due) statsAt = now;
  send({ kind: "reports", reports, ...(due && core && { stats: core.stats() }) });
}

async function obey(message: CoreMessage): Promise<void> {
  switch (message.kind) {
    case "load":
      try {
        const coder = await loadModel(message.model, message.settings);
        core = new EngineCore(coder, message.settings, (reports) =>
          report(reports.map(({ error, ...rest }) => ({ ...rest, ...(error && { error: errorParts(error) }) }))),
        );
        send({ kind: "ready", facts: core.facts, stats: core.stats() });
      } catch (error) {
        send({ kind: "failed", error: errorParts(error) });
      }
      return;
    case "score":
      try {
        if (!core) throw new EngineError("ENGINE_WORKER", "no model is loaded");
        send({ kind: "score", key: message.key, result: await core.score(message.tokens, message.settings) });
      } catch (error) {
        send({ kind: "score", key: message.key, error: errorParts(error) });
      }
      return;
    case "generate":
      core?.generate(message.request);
      return;
    case "abort":
      core?.abort(message.key);
      return;
    case "stats":
      if (core) send({ kind: "stats", stats: core.stats() });
      return;
    case "close":
      await core?.close();
      send({ kind: "closed" });
      await nextTurn();
      if (parentPort) parentPort.close();
      else process.disconnect?.();
  }
}

if (parentPort) parentPort.on("message", (message: CoreMessage) => void obey(message));
else {
  process.on("message", (message: CoreMessage) => void obey(message));
  // Without its parent it has nothing to do. A signal for the whole group is the parent's to answer: it drains.
  process.on("disconnect", () => process.exit(0));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => {});
}
