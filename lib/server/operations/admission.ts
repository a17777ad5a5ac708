import { performance } from "node:perf_hooks";
import { ApiError } from "../api-error.js";

export interface AdmissionLimits {
  /** Choices that may wait. */
  maxQueue: number;
  /** Prompt tokens that may wait. */
  maxQueueTokens: number;
}

/** Longest wait that is ever asked of a client, and the time over which the throughput is watched, in seconds. */
const MAX_RETRY_AFTER = 30;
const WINDOW = 60;

/**
 * Decides whether a request is taken. What counts is what waits: choices that have not begun. So a server under steady
 * load takes as much as it can run, and a queue never grows beyond what is worth waiting for.
 */
export class Admission {
  readonly #limits: AdmissionLimits;
  readonly #throughput = new Throughput(WINDOW);
  #waiting = 0;
  #waitingTokens = 0;
  #open = 0;
  #outstanding = 0;
  readonly rejected = { queue_full: 0, queue_tokens_full: 0 };

  constructor(limits: AdmissionLimits) {
    this.#limits = limits;
  }

  /** Choices that wait, and requests that are not over. */
  get waiting(): number {
    return this.#waiting;
  }

  get open(): number {
    return this.#open;
  }

  /**
   * Takes a request, as a whole or not at all.
   *
   * @param choices its prompts times n
   * @param promptTokens summed over its choices
   * @param maxTokens that it may generate, summed over its choices
   * @throws ApiError queue_full, queue_tokens_full with the time after which there should be room
   */
  enter(choices: number, promptTokens: number, maxTokens: number): Ticket {
    const { maxQueue, maxQueueTokens } = this.#limits;
    // A request larger than the whole limit is taken when nothing waits: it could never be otherwise.
    const fits = (used: number, more: number, limit: number) => used + more <= limit || used === 0;
    if (!fits(this.#waiting, choices, maxQueue)) {
      this.rejected.queue_full++;
      const message = `the queue is full: ${this.#waiting} of ${maxQueue} choices wait; try again later`;
      throw new ApiError("queue_full", message, { retryAfter: this.retryAfter() });
    }
    if (!fits(this.#waitingTokens, promptTokens, maxQueueTokens)) {
      this.rejected.queue_tokens_full++;
      const message = `the queue is full: ${this.#waitingTokens} of ${maxQueueTokens} prompt tokens wait; try again later`;
      throw new ApiError("queue_tokens_full", message, { retryAfter: this.retryAfter() });
    }
    return new Ticket(this, choices, promptTokens, maxTokens);
  }

  /** Seconds until about half of what is ahead is done at the pace of late; 1 where the pace is not known. */
  retryAfter(): number {
    const rate = this.#throughput.perSecond();
    if (rate <= 0) return 1;
    return Math.min(MAX_RETRY_AFTER, Math.max(1, Math.ceil(this.#outstanding / rate / 2)));
  }

  /** @internal A {@link Ticket} was given out: all its choices wait. */
  entered(choices: number, promptTokens: number, maxTokens: number): void {
    this.#open++;
    this.#waiting += choices;
    this.#waitingTokens += promptTokens;
    this.#outstanding += maxTokens;
  }

  /** @internal One of its choices waits no more. */
  began(promptTokens: number): void {
    this.#waiting--;
    this.#waitingTokens -= promptTokens;
  }

  /** @internal Tokens were generated of those that may be. */
  generated(tokens: number): void {
    this.#outstanding -= tokens;
    this.#throughput.add(tokens);
  }

  /** @internal It is over: what still waited and what was not generated is given up. */
  left(choices: number, promptTokens: number, outstanding: number): void {
    this.#open--;
    this.#waiting -= choices;
    this.#waitingTokens -= promptTokens;
    this.#outstanding -= outstanding;
  }
}

/** A request that was taken. It must be left. */
export class Ticket {
  readonly #admission: Admission;
  readonly #tokensOfChoice: number;
  #waiting: number;
  #outstanding: number;
  #left = false;

  constructor(admission: Admission, choices: number, promptTokens: number, maxTokens: number) {
    this.#admission = admission;
    this.#waiting = choices;
    this.#tokensOfChoice = promptTokens / choices;
    this.#outstanding = maxTokens;
    admission.entered(choices, promptTokens, maxTokens);
  }

  /** A choice has begun. */
  began(): void {
    if (this.#left || this.#waiting === 0) return;
    this.#waiting--;
    this.#admission.began(this.#tokensOfChoice);
  }

  /** Tokens were generated. */
  generated(tokens: number): void {
    const counted = Math.min(tokens, this.#outstanding);
    if (this.#left || counted === 0) return;
    this.#outstanding -= counted;
    this.#admission.generated(counted);
  }

  /** The request is over, however it ended. */
  leave(): void {
    if (this.#left) return;
    this.#left = true;
    this.#admission.left(this.#waiting, this.#waiting * this.#tokensOfChoice, this.#outstanding);
  }
}

/** How fast tokens are made when there is work: the best whole second of the last while. */
class Throughput {
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

  /** 0 where it is not known. */
  perSecond(): number {
    this.#advance();
    const current = this.#second % this.#buckets.length;
    return this.#buckets.reduce((best, tokens, i) => (i === current ? best : Math.max(best, tokens)), 0);
  }

  #advance(): void {
    const now = Math.floor((performance.now() - this.#started) / 1000);
    const gone = Math.min(now - this.#second, this.#buckets.length);
    for (let i = 1; i <= gone; i++) this.#buckets[(this.#second + i) % this.#buckets.length] = 0;
    this.#second = now;
  }
}
