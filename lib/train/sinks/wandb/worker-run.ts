import { threadLink, WorkerClient, WorkerEnded } from "../../../worker/index.js";
import type { WandbOptions, WandbRun } from "./options.js";
import type { WandbHandlers, WorkerSettings } from "./worker.js";

/** A run of W&B's SDK in a thread of its own. What goes wrong there is thrown by the next `log`. */
export class WorkerRun implements WandbRun {
  readonly #client: WorkerClient<WandbHandlers>;
  readonly #finishSeconds: number;
  readonly #started: Promise<void>;
  #failure: Error | undefined;

  /** @param sdk address of the module */
  constructor(sdk: string, options: WandbOptions & { config: Record<string, unknown> }) {
    const { project, entity, name, config, finishSeconds = 30, onUrl } = options;
    this.#finishSeconds = finishSeconds;
    const workerData: WorkerSettings = { sdk, init: { project, entity, name, config } };
    // What the SDK prints would go between our lines.
    const link = threadLink("worker", import.meta.url, { workerData, stdout: true, stderr: true });
    this.#client = new WorkerClient(link, { onEnd: (error) => this.#fail(error) });
    this.#started = this.#client.call("url", undefined).then((url) => {
      if (url !== undefined) onUrl?.(url);
    });
    this.#started.catch((error) => this.#fail(error));
  }

  /**
   * Waits until W&B knows the run, so that a missing key or network is reported at the beginning; but no longer than some
   * seconds, after which the thread continues to try.
   */
  async ready(seconds: number): Promise<void> {
    await within(seconds, this.#started);
    if (this.#failure) throw this.#failure;
  }

  log(data: Record<string, unknown>, { step }: { step: number }): void {
    if (this.#failure) throw this.#failure;
    this.#client.call("log", { data, step }).catch((error) => this.#fail(error));
  }

  /** Waits until everything is sent, or for as long as the options allow. */
  async finish(exitCode = 0): Promise<void> {
    const finished = this.#client.call("finish", exitCode);
    finished.catch((error) => this.#fail(error));
    this.#client.ref();
    const outcome = await within(this.#finishSeconds, finished);
    const failure = this.#failure;
    await this.#client.kill();
    if (failure) throw failure;
    if (outcome === "late") throw new Error(`not everything was sent within ${this.#finishSeconds} seconds`);
  }

  #fail(error: Error): void {
    this.#failure ??= error instanceof WorkerEnded ? new Error(error.reason, { cause: error.cause }) : error;
  }
}

/** Waits for something to end, well or not, or for some seconds. */
async function within(seconds: number, event: Promise<void>): Promise<"late" | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<"late">((resolve) => {
    timer = setTimeout(() => resolve("late"), seconds * 1000);
  });
  const ended = event.then(
    () => undefined,
    () => undefined,
  );
  const outcome = await Promise.race([ended, late]);
  clearTimeout(timer);
  return outcome;
}
