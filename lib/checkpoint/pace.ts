/**
 * A thread that shares the processors with training rests this many times as long as it works. Training in several threads
 * waits for the slowest of them at every operator, so it loses the share of one core that is taken from it: here a
 * twentieth. (Priorities do not help: Linux lets a running thread of any priority finish its slice of milliseconds.)
 */
export const REST = 19;
/** Rests are saved up to this length, in milliseconds: shorter ones cost more than they give. */
const SHORTEST_REST = 0.5;
/** No piece takes longer than this by itself, in milliseconds: the rest was waiting for the disk or for other processes. */
const LONGEST_WORK = 1;

/** The states of a save, in memory that its threads share. */
export const CALM = 0;
export const HURRIED = 1;
export const CANCELLED = 2;

/** Makes a save run at full speed from now on, or cancels it. */
export function signal(state: Int32Array, what: typeof HURRIED | typeof CANCELLED): void {
  if (Atomics.load(state, 0) !== CANCELLED) Atomics.store(state, 0, what);
  Atomics.notify(state, 0);
}

/** Makes a thread alternate between work and rest. A rest ends at once when the save is expedited or cancelled. */
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
