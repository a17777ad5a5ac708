import type { Batch } from "../model/objective.js";
import { threadLink, WorkerClient, WorkerEnded } from "../worker/index.js";
import { DataError, type DataErrorCode } from "./errors.js";
import type { LoaderDescription } from "./loader.js";
import type { BatchPlace, PrefetchHandlers } from "./prefetch-thread.js";

type Client = WorkerClient<PrefetchHandlers>;

/**
 * A thread that reads batches of one loader, in the order of the calls. If the thread ends, another one takes its place,
 * once, and reads what the first one has not; after that every read rejects. It never keeps the process alive.
 */
export class DataThread {
  readonly #description: LoaderDescription;
  #client: Client | undefined;
  #restarts = 0;
  #numWaiting = 0;
  #failure: Error | undefined;

  constructor(description: LoaderDescription) {
    const { dataset } = description;
    // A URL cannot be sent; its text can.
    const isModule = dataset.kind === "module";
    this.#description = isModule
      ? { ...description, dataset: { ...dataset, module: String(dataset.module) } }
      : description;
    this.#start();
  }

  /** Whether its dataset is open. */
  get isReady(): boolean {
    return this.#client?.isReady ?? false;
  }

  /** Reads that have not ended. */
  get numWaiting(): number {
    return this.#numWaiting;
  }

  /** Why it reads nothing more. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /**
   * Reads the batches at some places.
   *
   * @returns them in that order; rejects with what reading threw, or DataError DATA_WORKER
   */
  read(places: readonly BatchPlace[]): Promise<Batch[]> {
    this.#numWaiting++;
    const result = this.#read(places).finally(() => this.#numWaiting--);
    result.catch(() => {}); // a batch that is no longer needed may fail unseen
    return result;
  }

  /** Ends the thread at once. Reads that have not ended reject. */
  close(): void {
    const error = new DataError("DATA_WORKER", "the thread that reads data was closed");
    this.#failure ??= error;
    void this.#client?.kill(error);
  }

  async #read(places: readonly BatchPlace[]): Promise<Batch[]> {
    for (;;) {
      const client = this.#client;
      if (this.#failure || !client) throw this.#failure;
      try {
        return await client.call("read", places);
      } catch (error) {
        if (!(error instanceof WorkerEnded)) throw error;
        // onEnd has started another thread, or set the failure.
      }
    }
  }

  #start(): void {
    try {
      this.#client = new WorkerClient(
        threadLink("prefetch-thread", import.meta.url, { workerData: this.#description, name: "data" }),
        {
          revive: ({ name, code, message, stack }) =>
            name === "DataError"
              ? Object.assign(new DataError(code as DataErrorCode, message), stack !== undefined && { stack })
              : undefined,
          onEnd: (error) => this.#onEnd(error),
        },
      );
    } catch (cause) {
      // Arguments that are functions, or no memory for a thread.
      const message = `cannot start a thread that reads data: ${(cause as Error).message}`;
      this.#failure = new DataError("DATA_WORKER", message, { cause });
    }
  }

  #onEnd(error: Error): void {
    if (!(error instanceof WorkerEnded))
      this.#failure ??= error; // the dataset cannot be opened there
    else if (this.#restarts++ === 0) this.#start();
    else {
      const message = `the thread that reads data ended twice, the second time with: ${error.reason}`;
      this.#failure ??= new DataError("DATA_WORKER", message, { cause: error.cause });
    }
  }
}
