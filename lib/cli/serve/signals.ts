/**
 * Waits for SIGTERM or SIGINT, and tells of the ones after it. Only a command may do this: a library that takes signals
 * takes them from the program around it.
 */
export class StopSignals {
  readonly first: Promise<NodeJS.Signals>;
  /** Called at each signal after the first. */
  onAgain: () => void = () => {};
  readonly #hear: (signal: NodeJS.Signals) => void;

  constructor() {
    let resolve: (signal: NodeJS.Signals) => void;
    let heard = false;
    this.first = new Promise((done) => {
      resolve = done;
    });
    this.#hear = (signal) => {
      if (heard) this.onAgain();
      heard = true;
      resolve(signal);
    };
    process.on("SIGTERM", this.#hear).on("SIGINT", this.#hear);
  }

  [Symbol.dispose](): void {
    process.off("SIGTERM", this.#hear).off("SIGINT", this.#hear);
  }
}
