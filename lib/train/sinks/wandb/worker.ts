import { parentPort, workerData } from "node:worker_threads";
import { messageOf } from "../../../torch/errors.js";
import type { FromWorker, ToWorker, WorkerSettings } from "./worker-run.js";

/** `@wandb/sdk` as far as it is used. */
interface Sdk {
  init(options: WorkerSettings["init"]): Promise<SdkRun>;
}

interface SdkRun {
  log(data: Record<string, unknown>, step?: number): void;
  finish(exitCode?: number): Promise<void>;
  url?(): string;
}

const port = parentPort as NonNullable<typeof parentPort>;
const { sdk, init } = workerData as WorkerSettings;

// The messages that arrive before the run is made wait in this promise's line.
const run = start();
let work = Promise.resolve();
port.on("message", (message: ToWorker) => {
  work = work.then(() => handle(message)).catch(fail);
});
run.catch(fail);

async function start(): Promise<SdkRun> {
  // As an ES module the SDK is the default export; as CommonJS that is one deeper.
  const module = (await import(sdk)) as { default?: { default?: unknown } };
  const api = [module, module.default, module.default?.default].find(isSdk);
  if (!api) throw new Error(`${sdk} has no init(): it is not W&B's SDK`);
  const made = await api.init(init);
  tell({ type: "ready", url: made.url?.() });
  return made;
}

function isSdk(value: unknown): value is Sdk {
  return typeof (value as Partial<Sdk> | undefined)?.init === "function";
}

async function handle(message: ToWorker): Promise<void> {
  const made = await run;
  if (message.type === "log") made.log(message.data, message.step);
  else {
    await made.finish(message.exitCode);
    process.exit(); // ends this thread alone
  }
}

function fail(error: unknown): void {
  tell({ type: "failed", message: messageOf(error) });
  process.exit(1);
}

function tell(message: FromWorker): void {
  port.postMessage(message);
}
