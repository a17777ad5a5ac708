/** Two signals so close together are one: a terminal sends Ctrl-C to npx and to us, and npx passes it on. */
const ONE_SIGNAL_MS = 250;

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * What the launcher is told from outside: SIGINT, SIGTERM and SIGHUP. The first asks the ranks to end, which save; a second
 * one ends them at once. A terminal that closes may say SIGHUP more than once, so that is never a second.
 */
export class Interruption implements Disposable {
  /** The first signal, once there was one. */
  name: NodeJS.Signals | undefined;
  /** The second one. */
  again: NodeJS.Signals | undefined;
  #at = 0;
  #listener: (() => void) | undefined;
  readonly #watch: NodeJS.Timeout | undefined;

  constructor(env: NodeJS.ProcessEnv) {
    for (const name of SIGNALS) process.on(name, this.raise);
    // At SIGTERM npx ends its shell and itself, and tells us nothing.
    const parent = process.ppid;
    if (env.npm_command !== "exec" || parent <= 1) return;
    this.#watch = setInterval(() => {
      if (process.ppid !== parent && this.name === undefined) this.raise("SIGTERM");
    }, 500).unref();
  }

  /** Acts as if the signal had come. */
  raise = (name: NodeJS.Signals): void => {
    if (this.name === undefined) {
      this.name = name;
      this.#at = performance.now();
    } else if (name === "SIGHUP" || this.again !== undefined || performance.now() - this.#at < ONE_SIGNAL_MS) {
      return;
    } else {
      this.again = name;
    }
    this.#listener?.();
  };

  /** Calls the function at the first and at the second signal; it takes the place of the one before. */
  listen(listener: (() => void) | undefined): void {
    this.#listener = listener;
  }

  [Symbol.dispose](): void {
    for (const name of SIGNALS) process.off(name, this.raise);
    clearInterval(this.#watch);
  }
}
