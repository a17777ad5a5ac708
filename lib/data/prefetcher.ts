import type { Batch } from "../model/objective.js";
import { DataThread } from "./data-thread.js";
import type { Loader } from "./loader.js";
import type { BatchPlace } from "./prefetch-thread.js";

/**
 * Threads that read batches ahead: a number, 0 for none; "auto": one as soon as reading is seen to take long, that is more
 * than a hundredth of a step and more than a millisecond, three steps in a row.
 */
export type DataWorkers = number | "auto";

/** Which batches a step takes, and how they are read. */
export interface PrefetchOptions {
  /** Positions of the stream from one step to the next. */
  readonly stride: number;
  /** This process's parts of a step's [0, stride): its micro-batches. */
  readonly parts: readonly { readonly from: number; readonly to: number }[];
  /** Default "auto". Data that cannot be opened in another thread is read in this one, see {@link Dataset.describe}. */
  readonly workers?: DataWorkers;
  /** Steps whose batches are kept ready. Default 2, or the number of threads if that is more. */
  readonly depth?: number;
}

const SLOW_SHARE = 0.01;
const SLOW_SECONDS = 1e-3;
const SLOW_STEPS = 3;

/**
 * Has the batches of the next steps read before they are needed. What a step gets depends on its position alone, not on
 * who read it or when: batches that no thread was asked for in time, the first ones above all, are read here.
 */
export class Prefetcher implements Disposable {
  readonly #loader: Loader;
  readonly #options: PrefetchOptions;
  readonly #depth: number;
  readonly #threads: DataThread[] = [];
  /** By position. */
  readonly #asked = new Map<number, Promise<Batch[]>>();
  #read: { position: number; batches: Batch[] } | undefined;
  #next: number | undefined;
  #isClosed = false;
  /** Of this thread's reading: seconds since the last step was taken, when that was, and the slow steps in a row. */
  #seconds = 0;
  #takenAt: number | undefined;
  #slowSteps = 0;

  constructor(loader: Loader, options: PrefetchOptions) {
    const { workers = "auto", depth = 2 } = options;
    this.#loader = loader;
    this.#options = options;
    this.#depth = Math.max(depth, workers === "auto" ? 1 : workers);
    if (workers !== "auto") this.#start(workers);
  }

  /** Threads that read, those that are only starting included. */
  get numThreads(): number {
    return this.#threads.length;
  }

  /**
   * The micro-batches of the step at a position, and has those of the steps after it read.
   *
   * @throws what reading them threw, here or in a thread, and DataError DATA_WORKER for a thread that ended twice
   */
  async take(position: number): Promise<Batch[]> {
    this.#observe();
    // While threads start, there must be a moment to hear that they did.
    if (this.#threads.some(({ isReady }) => !isReady)) await new Promise((done) => setImmediate(done));
    const asked = this.#asked.get(position);
    for (const at of this.#asked.keys()) if (!this.#isAhead(at, position)) this.#asked.delete(at);
    this.#next = position + this.#options.stride;
    this.#ask();
    const failure = this.#threads.find((thread) => thread.failure)?.failure;
    if (!asked) {
      if (failure) throw failure;
      return this.#readHere(position);
    }
    // Threads keep nothing alive; whoever waits for one does.
    const alive = setInterval(() => {}, 2 ** 30);
    try {
      return await asked;
    } finally {
      clearInterval(alive);
    }
  }

  /** For the moment when this thread has nothing else to do: reads the next step's batches, unless a thread does. */
  readAhead(): void {
    const position = this.#next;
    if (position === undefined || this.#asked.has(position) || this.#isClosed) return;
    try {
      this.#read = { position, batches: this.#readHere(position) };
    } catch {
      // The step at hand does not need it. The next one reads again and says what is wrong.
    }
  }

  /** Ends the threads. Whoever waits for them gets an error. */
  close(): void {
    this.#isClosed = true;
    for (const thread of this.#threads.splice(0)) thread.close();
    this.#asked.clear();
    this.#read = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #start(count: number): void {
    const description = count > 0 && !this.#isClosed ? this.#loader.describe() : undefined;
    if (!description) return;
    for (let i = 0; i < count; i++) this.#threads.push(new DataThread(description));
  }

  /** Asks the threads for what is ahead. */
  #ask(): void {
    const next = this.#next as number;
    for (let step = 0; step < this.#depth; step++) {
      const position = next + step * this.#options.stride;
      if (this.#asked.has(position)) continue;
      const [thread] = this.#threads.filter(({ isReady }) => isReady).sort((a, b) => a.numWaiting - b.numWaiting);
      if (thread) this.#asked.set(position, thread.read(this.#places(position)));
    }
  }

  #isAhead(at: number, position: number): boolean {
    const steps = (at - position) / this.#options.stride;
    return steps >= 1 && steps <= this.#depth && Number.isInteger(steps);
  }

  #places(position: number): BatchPlace[] {
    return this.#options.parts.map(({ from, to }) => ({ position: position + from, batchSize: to - from }));
  }

  #readHere(position: number): Batch[] {
    const read = this.#read;
    this.#read = undefined;
    if (read?.position === position) return read.batches;
    const start = performance.now();
    try {
      return this.#places(position).map((place) => this.#loader.batchAt(place.position, place.batchSize));
    } finally {
      this.#seconds += (performance.now() - start) / 1000;
    }
  }

  /** With "auto": looks at how long reading took since the last step was taken. */
  #observe(): void {
    const now = performance.now() / 1000;
    const stepSeconds = this.#takenAt === undefined ? Number.POSITIVE_INFINITY : now - this.#takenAt;
    const isSlow = this.#seconds > SLOW_SECONDS && this.#seconds > SLOW_SHARE * stepSeconds;
    this.#slowSteps = isSlow ? this.#slowSteps + 1 : 0;
    this.#takenAt = now;
    this.#seconds = 0;
    const { workers = "auto" } = this.#options;
    if (workers === "auto" && this.#threads.length === 0 && this.#slowSteps === SLOW_STEPS) this.#start(1);
  }
}
