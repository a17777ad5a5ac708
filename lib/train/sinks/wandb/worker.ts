import { workerData } from "node:worker_threads";
import { serve } from "../../../worker/serve.js";
import type { WandbOptions } from "./options.js";

// The thread in which W&B's SDK works.

/** What the thread is started with. */
export interface WorkerSettings {
  /** Address of the SDK's module. */
  sdk: string;
  init: Pick<WandbOptions, "project" | "entity" | "name"> & { config: Record<string, unknown> };
}

export interface WandbHandlers {
  /** The run's address, once W&B knows the run. */
  url(argument: undefined): Promise<string | undefined>;
  log(row: { data: Record<string, unknown>; step: number }): Promise<void>;
  /** Resolves when everything is sent. */
  finish(exitCode: number): Promise<void>;
}

/** `@wandb/sdk` as far as it is used. */
interface Sdk {
  init(options: WorkerSettings["init"]): Promise<SdkRun>;
}

interface SdkRun {
  log(data: Record<string, unknown>, step?: number): void;
  finish(exitCode?: number): Promise<void>;
  url?(): string;
}

serve<WandbHandlers>(() => {
  const { sdk, init } = workerData as WorkerSettings;
  const run = startRun(sdk, init);
  return {
    url: async () => (await run).url?.(),
    log: async ({ data, step }) => (await run).log(data, step),
    finish: async (exitCode) => await (await run).finish(exitCode),
  };
});

async function startRun(address: string, init: WorkerSettings["init"]): Promise<SdkRun> {
  const module = (await import(address)) as { default?: { default?: unknown } };
  // As an ES module the SDK is the default export; as CommonJS that is one deeper.
  const sdk = [module, module.default, module.default?.default].find(isSdk);
  if (!sdk) throw new Error(`${address} has no init(): it is not W&B's SDK`);
  return await sdk.init(init);
}

function isSdk(value: unknown): value is Sdk {
  return typeof (value as Partial<Sdk> | undefined)?.init === "function";
}
