import { EngineError } from "./errors.js";
import { type QueueBook, type RequestSize, Reservation, type TimeLimits } from "./reservation.js";
import { Throughput } from "./throughput.js";
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
