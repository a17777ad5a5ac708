/**
 * Ratio of rest to work of a thread that shares the cores with training. Multi-threaded operators wait for their
 * slowest thread, so training loses the share of one core that this thread uses: here a twentieth. (Priorities do not
 * help: Linux lets a running thread of any priority finish its slice of milliseconds.)
 */
export const REST = 19;
/** Minimum length of a rest, in milliseconds; shorter rests are accumulated, because they cost more than they gain. */
const SHORTEST_REST = 0.5;
/**
 * Maximum work counted per piece, in milliseconds: the rest of the time was spent waiting for the disk or other
 * processes.
 */
const LONGEST_WORK = 1;

/** The states of a save, in memory shared by its threads. */
export const CALM = 0;
export const HURRIED = 1;
export const CANCELLED = 2;

/** Expedites a save, which then runs at full speed, or cancels it. */
export function signal(state: Int32Array, what: typeof HURRIED | typeof CANCELLED): void {
  if (Atomics.load(state, 0) !== CANCELLED) Atomics.store(state, 0, what);
  Atomics.notify(state, 0);
}

/** Makes a thread alternate between work and rest. A rest ends immediately if the save is expedited or cancelled. */
export class Pace {
  readonly #state: Int32Array;
  readonly #rest: number;
  #since = performance.now();
  #owed = 0;

  /** @param rest ratio of rest to work */
  constructor(state: Int32Array, rest: number) {
    this.#state = state;
    this.#rest = rest;
  }

  /** Call it after every piece of work. Throws if the save is cancelled. */
  readonly pause = (): void => {
    const now = performance.now();
    this.#owed += Math.min(now - this.#since, LONGEST_WORK) * this.#rest;
    if (this.#owed >= SHORTEST_REST) {
      Atomics.wait(this.#state, 0, CALM, this.#owed);
      this.#owed = 0;
    }
    this.#since = performance.now();
    if (Atomics.load(this.#state, 0) === CANCELLED) throw new Error("the save was cancelled");
  };

  /** Call it before work that follows a wait. */
  start(): void {
    this.#since = performance.now();
  }
}
