/** A thread that paces itself rests this many times as long as it works. */
const REST = Number(process.env.CKPT_REST ?? 2);
/** Rests are saved up to this length, in milliseconds: shorter ones cost more than they give. */
const SHORTEST_REST = 2;

/** What the threads of a save tell each other, in shared memory. */
export const CALM = 0;
export const HURRIED = 1;
export const CANCELLED = 2;

/** Makes a save run at its full speed from now on, or gives it up. */
export function tell(state: Int32Array, what: typeof HURRIED | typeof CANCELLED): void {
  if (Atomics.load(state, 0) !== CANCELLED) Atomics.store(state, 0, what);
  Atomics.notify(state, 0);
}

/**
 * Keeps a thread from working all the time while others compute: hashing and copying take processor and memory bandwidth
 * from training, also at the lowest priority. Rests end at once when somebody begins to wait.
 */
export class Pace {
  readonly #state: Int32Array;
  #since = performance.now();
  #owed = 0;

  constructor(state: Int32Array) {
    this.#state = state;
  }

  /** To be called after every piece of work. Throws if the work is to be given up. */
  readonly rest = (): void => {
    const now = performance.now();
    this.#owed += (now - this.#since) * REST;
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
