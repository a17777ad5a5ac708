import { EngineError } from "./errors.js";
import type { AdmissionStats, EngineStats } from "./types.js";

export interface AdmissionLimits extends TimeLimits {
  /** Choices that may wait. */
  maxQueue: number;
  /** Prompt tokens that may wait. */
  maxQueueTokens: number;
}

/** The longest wait that is recommended to a caller, and the window of the throughput, in seconds. */
const MAX_RETRY_AFTER = 30;
const WINDOW = 60;

/**
 * Decides whether an engine takes a request. Only what waits counts: choices that have not begun. An engine under steady
 * load therefore takes as much as it can run, and the queue never grows beyond its limit.
 */
export class Admission {
  readonly #limits: AdmissionLimits;
  readonly #book: QueueBook = { waiting: 0, waitingTokens: 0, outstanding: 0, throughput: new Throughput(WINDOW) };
  /** Requests refused, by limit. */
  readonly rejected: EngineStats["counters"]["rejected"] = { requests: 0, tokens: 0 };

  constructor(limits: AdmissionLimits) {
    this.#limits = limits;
  }

  /**
   * Takes a request, as a whole or not at all.
   *
   * @throws EngineError ENGINE_QUEUE_FULL
   */
  admit(size: RequestSize): Reservation {
    const { maxQueue, maxQueueTokens } = this.#limits;
    const { waiting, waitingTokens } = this.#book;
    // A request larger than the whole limit is taken when nothing waits: otherwise it could never run.
    const fits = (used: number, more: number, limit: number) => used === 0 || used + more <= limit;
    if (!fits(waiting, size.choices, maxQueue)) {
      this.rejected.requests++;
      throw full("requests", waiting, maxQueue, "choices");
    }
    if (!fits(waitingTokens, size.promptTokens, maxQueueTokens)) {
      this.rejected.tokens++;
      throw full("tokens", waitingTokens, maxQueueTokens, "prompt tokens");
    }
    return new Reservation(this.#book, size, this.#limits);
  }

  /**
   * The place of a call: the given one, of which it uses some choices, or one of its own.
   *
   * @throws EngineError ENGINE_QUEUE_FULL; ENGINE_OPTIONS, ENGINE_TIMEOUT for a reservation that cannot be used
   */
  enter(reservation: Reservation | undefined, size: RequestSize, choices: number): Reservation {
    if (!reservation) return this.admit(size);
    if (reservation.book !== this.#book) {
      throw new EngineError("ENGINE_OPTIONS", "the reservation is another engine's");
    }
    reservation.claim(choices);
    return reservation;
  }

  stats(): AdmissionStats {
    const { waiting, waitingTokens, outstanding, throughput } = this.#book;
    const tokensPerSecond = throughput.perSecond();
    // Until about half of what is ahead is done.
    const seconds = tokensPerSecond > 0 ? Math.ceil(outstanding / tokensPerSecond / 2) : 1;
    const retryAfter = Math.min(MAX_RETRY_AFTER, Math.max(1, seconds));
    return { waiting, waitingTokens, outstandingTokens: outstanding, tokensPerSecond, retryAfter };
  }
}

function full(limit: "requests" | "tokens", used: number, allowed: number, what: string): EngineError {
  const message = `the queue is full: ${used} of ${allowed} ${what} wait; try again later`;
  return new EngineError("ENGINE_QUEUE_FULL", message, { details: { limit, used, allowed } });
}

/** What a request asks for, summed over its prompts and their choices. */
export interface RequestSize {
  choices: number;
  promptTokens: number;
  /** Tokens that may be generated. */
  maxTokens: number;
}

/** What the reservations of an engine amount to. */
export interface QueueBook {
  /** Choices that have not begun, and their prompt tokens. */
  waiting: number;
  waitingTokens: number;
  /** Tokens that may still be generated. */
  outstanding: number;
  readonly throughput: Throughput;
}

/** Seconds; 0: no limit. */
export interface TimeLimits {
  queueTimeout: number;
  requestTimeout: number;
}

/**
 * The place of one request in an engine's queue: what `Engine.reserve` returns. Prompts, choices and scores that are given
 * to the engine with it were admitted together, and share its time limits. It must be released.
 */
export class Reservation implements Disposable {
  /** Aborted with an EngineError (ENGINE_TIMEOUT) when the request has waited, or has taken, too long. */
  readonly signal: AbortSignal;
  /** @internal */
  readonly book: QueueBook;
  readonly #controller = new AbortController();
  readonly #expiryListeners = new Set<(error: EngineError) => void>();
  readonly #size: RequestSize;
  /** Choices that no call has used yet. */
  #unclaimed: number;
  #waiting: number;
  #waitingTokens: number;
  #outstanding: number;
  #isReleased = false;
  #queueTimer: NodeJS.Timeout | undefined;
  readonly #requestTimer: NodeJS.Timeout | undefined;

  /** @internal */
  constructor(book: QueueBook, size: RequestSize, { queueTimeout, requestTimeout }: TimeLimits) {
    this.signal = this.#controller.signal;
    this.book = book;
    this.#size = size;
    this.#unclaimed = this.#waiting = size.choices;
    this.#waitingTokens = size.promptTokens;
    this.#outstanding = size.maxTokens;
    book.waiting += size.choices;
    book.waitingTokens += size.promptTokens;
    book.outstanding += size.maxTokens;
    const after = (seconds: number, limit: "queue" | "request", message: string) =>
      seconds > 0 ? setTimeout(() => this.#expire(limit, message), seconds * 1000).unref() : undefined;
    this.#queueTimer = after(
      queueTimeout,
      "queue",
      `the request waited ${queueTimeout} s for its turn; try again later`,
    );
    this.#requestTimer = after(requestTimeout, "request", `the request took longer than ${requestTimeout} s`);
  }

  /** Gives up choices that were reserved and will not be generated: they no longer count as waiting. */
  forgo(choices: number, promptTokens: number): void {
    this.claim(choices);
    this.leaveQueue(choices, promptTokens);
  }

  /** The request is over: its choices no longer wait, and its time limits end. More than one call does no harm. */
  release(): void {
    if (this.#isReleased) return;
    this.leaveQueue(this.#waiting, this.#waitingTokens);
    this.#isReleased = true;
    this.book.outstanding -= this.#outstanding;
    this.#outstanding = 0;
    this.#expiryListeners.clear();
    clearTimeout(this.#requestTimer);
  }

  [Symbol.dispose](): void {
    this.release();
  }

  /**
   * @internal Choices are given to the engine.
   * @throws EngineError ENGINE_OPTIONS when it is released or has fewer left; ENGINE_TIMEOUT when it has expired
   */
  claim(choices: number): void {
    if (this.#isReleased) throw new EngineError("ENGINE_OPTIONS", "the reservation was released");
    this.signal.throwIfAborted();
    if (choices > this.#unclaimed) {
      const message = `${choices} choices exceed the ${this.#unclaimed} left of the ${this.#size.choices} reserved`;
      throw new EngineError("ENGINE_OPTIONS", message);
    }
    this.#unclaimed -= choices;
  }

  /** @internal A choice or a score of the request has begun: the limit of the wait no longer applies. */
  begin(): void {
    clearTimeout(this.#queueTimer);
    this.#queueTimer = undefined;
  }

  /** @internal Choices no longer wait: they have begun, or never will. */
  leaveQueue(choices: number, promptTokens: number): void {
    const left = Math.min(choices, this.#waiting);
    this.#waiting -= left;
    this.book.waiting -= left;
    // The caller's count of prompt tokens may differ from the engine's; none must stay behind.
    const tokens = this.#waiting === 0 ? this.#waitingTokens : Math.min(promptTokens, this.#waitingTokens);
    this.#waitingTokens -= tokens;
    this.book.waitingTokens -= tokens;
    if (this.#waiting === 0) this.begin();
  }

  /** @internal Tokens of the request were generated. */
  generated(tokens: number): void {
    const counted = Math.min(tokens, this.#outstanding);
    if (counted === 0) return;
    this.#outstanding -= counted;
    this.book.outstanding -= counted;
    this.book.throughput.add(counted);
  }

  /** @internal Calls back on expiry, before `signal` is aborted. @returns a function that removes the listener */
  onExpire(listener: (error: EngineError) => void): () => void {
    this.#expiryListeners.add(listener);
    return () => void this.#expiryListeners.delete(listener);
  }

  #expire(limit: "queue" | "request", message: string): void {
    if (this.#isReleased || this.signal.aborted) return;
    const error = new EngineError("ENGINE_TIMEOUT", message, { details: { limit } });
    for (const listener of [...this.#expiryListeners]) listener(error);
    this.leaveQueue(this.#waiting, this.#waitingTokens);
    this.#controller.abort(error);
  }
}

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
