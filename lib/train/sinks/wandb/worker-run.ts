import type { Worker } from "node:worker_threads";
import { startThread } from "../../../torch/start-thread.js";
import type { WandbOptions, WandbRun } from "./options.js";

/** What the thread with W&B's SDK is started with. */
export interface WorkerSettings {
  /** Address of the SDK's module. */
  sdk: string;
  init: { project: string; entity?: string; name?: string; config: Record<string, unknown> };
}

export type ToWorker =
  | { type: "log"; data: Record<string, unknown>; step: number }
  | { type: "finish"; exitCode: number };

export type FromWorker = { type: "ready"; url?: string } | { type: "failed"; message: string };

/** A run of W&B's SDK in a thread of its own. What goes wrong there is thrown by the next `log`. */
export class WorkerRun implements WandbRun {
  readonly #worker: Worker;
  readonly #finishSeconds: number;
  #failure: Error | undefined;
  readonly #ended: Promise<void>;
  readonly #isReady = signal();

  /** @param sdk address of the module */
  constructor(sdk: string, options: WandbOptions & { config: Record<string, unknown> }) {
    const { project, entity, name, config, finishSeconds = 30, onUrl } = options;
    this.#finishSeconds = finishSeconds;
    const workerData: WorkerSettings = { sdk, init: { project, entity, name, config } };
    // What the SDK prints would go between our lines.
    this.#worker = startThread("worker", import.meta.url, { workerData, stdout: true, stderr: true });
    this.#worker.unref(); // only finish() may keep the process
    this.#worker.on("message", (message: FromWorker) => {
      if (message.type === "failed") this.#failure = new Error(message.message);
      else {
        if (message.url !== undefined) onUrl?.(message.url);
        this.#isReady.resolve();
      }
    });
    this.#ended = new Promise((resolve) => {
      this.#worker.on("error", (error) => {
        this.#failure ??= error instanceof Error ? error : new Error(String(error));
      });
      this.#worker.on("exit", () => resolve());
    });
  }

  /**
   * Waits until W&B knows the run, so that a missing key or network is said at the beginning; but no longer than some
   * seconds, after which the thread goes on trying by itself.
   */
  async ready(seconds: number): Promise<void> {
    await within(seconds, Promise.race([this.#isReady.promise, this.#ended]));
    if (this.#failure) throw this.#failure;
  }

  log(data: Record<string, unknown>, { step }: { step: number }): void {
    if (this.#failure) throw this.#failure;
    this.#send({ type: "log", data, step });
  }

  /** Waits until everything is sent, or for as long as the options allow. */
  async finish(exitCode = 0): Promise<void> {
    this.#send({ type: "finish", exitCode });
    this.#worker.ref();
    const outcome = await within(this.#finishSeconds, this.#ended);
    if (outcome === "late") await this.#worker.terminate();
    if (this.#failure) throw this.#failure;
    if (outcome === "late") throw new Error(`not everything was sent within ${this.#finishSeconds} seconds`);
  }

  #send(message: ToWorker): void {
    this.#worker.postMessage(message);
  }
}

function signal(): { promise: Promise<void>; resolve: () => void } {
  let resolve = () => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}

/** Waits for something to happen, or for some seconds. */
async function within(seconds: number, event: Promise<void>): Promise<"late" | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<"late">((resolve) => {
    timer = setTimeout(() => resolve("late"), seconds * 1000);
  });
  const outcome = await Promise.race([event, late]);
  clearTimeout(timer);
  return outcome ?? undefined;
}
