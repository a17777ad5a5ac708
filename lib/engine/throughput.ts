/** The rate at which tokens are generated when there is work: the best whole second of a recent window. */
export class Throughput {
  readonly #buckets: Float64Array;
  readonly #started = performance.now();
  #second = 0;

  /** @param window seconds */
  constructor(window: number) {
    this.#buckets = new Float64Array(window);
  }

  add(tokens: number): void {
    this.#advance();
    this.#buckets[this.#second % this.#buckets.length] += tokens;
  }

  /** Tokens per second; 0 where nothing was generated in the window. */
  perSecond(): number {
    this.#advance();
    const current = this.#second % this.#buckets.length; // not a whole second yet
    return this.#buckets.reduce((best, tokens, i) => (i === current ? best : Math.max(best, tokens)), 0);
  }

  #advance(): void {
    const now = Math.floor((performance.now() - this.#started) / 1000);
    const gone = Math.min(now - this.#second, this.#buckets.length);
    for (let i = 1; i <= gone; i++) this.#buckets[(this.#second + i) % this.#buckets.length] = 0;
    this.#second = now;
  }
}
