/**
 * How many times as long as it works a thread rests that shares the processors with training. Training in several threads
 * waits for the slowest of them at every operator, and so loses whatever share of one core is taken from it: here a
 * twentieth. (Priorities do not help: Linux lets a running thread of any priority finish its slice of milliseconds.)
 */
export const REST = 19;
/** Rests are saved up to this length, in milliseconds: shorter ones cost more than they give. */
const SHORTEST_REST = 0.5;
/** More than this no piece takes by itself: the rest was waiting for the disk or for other processes. */
const LONGEST_WORK = 1;

/** What the threads of a save tell each other, in shared memory. */
export const CALM = 0;
export const HURRIED = 1;
export const CANCELLED = 2;

/** Makes a save run at its full speed from now on, or gives it up. */
export function tell(state: Int32Array, what: typeof HURRIED | typeof CANCELLED): void {
  if (Atomics.load(state, 0) !== CANCELLED) Atomics.store(state, 0, what);
  Atomics.notify(state, 0);
}

/** Makes a thread work a little and rest a little. Rests end at once when somebody begins to wait. */
export class Pace {
  readonly #state: Int32Array;
  readonly #rest: number;
  #since = performance.now();
  #owed = 0;

  /** @param rest times as long as the work */
  constructor(state: Int32Array, rest: number) {
    this.#state = state;
    this.#rest = rest;
  }

  /** To be called after every piece of work. Throws if the work is to be given up. */
  readonly pause = (): void => {
    const now = performance.now();
    this.#owed += Math.min(now - this.#since, LONGEST_WORK) * this.#rest;
    if (this.#owed >= SHORTEST_REST) {
      Atomics.wait(this.#state, 0, CALM, this.#owed);
      this.#owed = 0;
    }
    this.#since = performance.now();
    if (Atomics.load(this.#state, 0) === CANCELLED) throw new Error("the save was given up");
  };

  /** To be called before work after a pause. */
  start(): void {
    this.#since = performance.now();
  }
}
