import type { Worker } from "node:worker_threads";
import type { Batch } from "../model/objective.js";
import { startThread } from "../torch/start-thread.js";
import { DataError, type DataErrorCode } from "./errors.js";
import type { LoaderDescription } from "./loader.js";
import type { BatchPlace, ReadReply, ReadRequest, SentError } from "./prefetch-thread.js";

interface Waiting {
  readonly places: readonly BatchPlace[];
  resolve(batches: Batch[]): void;
  reject(error: Error): void;
}

/**
 * A thread that reads batches of one loader, in the order they are asked for. One that dies is replaced, once, and what it
 * was asked for is asked again; after that every read rejects. It never keeps the process alive.
 */
export class DataThread {
  readonly #description: LoaderDescription;
  readonly #waiting = new Map<number, Waiting>();
  #worker: Worker | undefined;
  #isReady = false;
  #deaths = 0;
  #failure: Error | undefined;
  #ids = 0;

  constructor(description: LoaderDescription) {
    const { dataset } = description;
    // An URL does not cross; its text does.
    const isModule = dataset.kind === "module";
    this.#description = isModule
      ? { ...description, dataset: { ...dataset, module: String(dataset.module) } }
      : description;
    this.#start();
  }

  /** Whether it has its dataset open. */
  get isReady(): boolean {
    return this.#isReady;
  }

  /** Requests that are not answered. */
  get numWaiting(): number {
    return this.#waiting.size;
  }

  /** Why it reads nothing more. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /**
   * Has the batches at some places read.
   *
   * @returns them in that order; rejects with what reading threw, or DataError DATA_WORKER
   */
  read(places: readonly BatchPlace[]): Promise<Batch[]> {
    const id = this.#ids++;
    const result = new Promise<Batch[]>((resolve, reject) => this.#waiting.set(id, { places, resolve, reject }));
    result.catch(() => {}); // what nobody asks for any more may fail unseen
    if (this.#failure) this.#fail(this.#failure);
    else this.#post({ id, places });
    return result;
  }

  /** Ends the thread at once; whatever waits is rejected. */
  close(): void {
    const worker = this.#worker;
    this.#worker = undefined;
    this.#fail(new DataError("DATA_WORKER", "the thread that reads data was closed"));
    void worker?.terminate();
  }

  #start(): void {
    this.#isReady = false;
    let worker: Worker;
    try {
      worker = startThread("prefetch-thread", import.meta.url, { workerData: this.#description, name: "data" });
    } catch (cause) {
      // Arguments that are functions, or no room for a thread.
      const message = `cannot start a thread that reads data: ${(cause as Error).message}`;
      this.#fail(new DataError("DATA_WORKER", message, { cause }));
      return;
    }
    this.#worker = worker;
    let cause: unknown;
    worker.on("message", (reply: ReadReply) => this.#hear(reply));
    worker.on("error", (error) => {
      cause = error;
    });
    worker.on("messageerror", (error) => {
      cause = error;
      void worker.terminate(); // what was lost is asked for again
    });
    worker.on("exit", (code) => {
      if (this.#worker === worker) this.#die(code, cause);
    });
    worker.unref();
  }

  #post(request: ReadRequest): void {
    this.#worker?.postMessage(request);
  }

  #die(code: number, cause: unknown): void {
    this.#worker = undefined;
    if (this.#failure) return;
    if (++this.#deaths === 1) {
      this.#start();
      for (const [id, { places }] of this.#waiting) this.#post({ id, places });
      return;
    }
    const why = cause === undefined ? `exit code ${code}` : String((cause as Error)?.message ?? cause);
    this.#fail(new DataError("DATA_WORKER", `the thread that reads data ended twice, at last with: ${why}`, { cause }));
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    const lost = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { reject } of lost) reject(error);
  }

  #hear(reply: ReadReply): void {
    if (reply.kind === "ready") this.#isReady = true;
    else if (reply.kind === "unusable") {
      this.#fail(received(reply.error));
      void this.#worker?.terminate();
    } else {
      const waiting = this.#waiting.get(reply.id);
      this.#waiting.delete(reply.id);
      if (reply.kind === "batches") waiting?.resolve(reply.batches);
      else waiting?.reject(received(reply.error));
    }
  }
}

/** An error as it was in the thread; of the classes that cross, our own is one again. */
function received({ name, message, code, stack }: SentError): Error {
  const isOurs = name === "DataError" && code !== undefined;
  const error = isOurs ? new DataError(code as DataErrorCode, message) : new Error(message);
  if (!isOurs) Object.assign(error, { name }, code !== undefined && { code });
  if (stack !== undefined) error.stack = stack;
  return error;
}
