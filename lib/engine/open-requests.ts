import { EngineError } from "./errors.js";
import type { EventQueue } from "./event-queue.js";
import { errorFromParts, type WireReport } from "./protocol.js";
import type { EngineEvent, ScoreResult } from "./types.js";

/** A request that is not done. */
interface OpenRequest {
  queue: EventQueue<EngineEvent>;
  promptTokens: number;
  /** Choices not done. */
  unfinished: Set<number>;
  /** Choices not begun, whose prompt's tokens count as waiting. */
  notStarted: number;
  /** Takes what a score came to. */
  onScore?(result: ScoreResult): void;
  /** Lets go of the request's signal. */
  release(): void;
}

export interface QueueLimits {
  /** Choices that may wait or run. */
  maxQueue: number;
  /** Prompt tokens that may wait. */
  maxQueueTokens: number;
}

/** The requests of an engine that are not done: what of the limits they use, and where their events go. */
export class OpenRequests {
  readonly #limits: QueueLimits;
  readonly #requests = new Map<number, OpenRequest>();
  #unfinished = 0;
  #waitingTokens = 0;
  /** Refused because of a limit, by limit. */
  readonly rejected = { requests: 0, tokens: 0 };

  constructor(limits: QueueLimits) {
    this.#limits = limits;
  }

  get size(): number {
    return this.#requests.size;
  }

  /** Choices not done. */
  get unfinished(): number {
    return this.#unfinished;
  }

  /** Prompt tokens of the choices not begun. */
  get waitingTokens(): number {
    return this.#waitingTokens;
  }

  has(key: number): boolean {
    return this.#requests.has(key);
  }

  /** @throws EngineError ENGINE_QUEUE_FULL */
  checkRoom(n: number, promptTokens: number): void {
    const { maxQueue, maxQueueTokens } = this.#limits;
    if (this.#unfinished + n > maxQueue) {
      this.rejected.requests++;
      throw new EngineError("ENGINE_QUEUE_FULL", `${this.#unfinished} choices wait or run, ${maxQueue} may`, {
        details: { limit: "requests", used: this.#unfinished, allowed: maxQueue },
      });
    }
    // A request that is too large for the limit by itself may still go when nothing waits.
    if (this.#waitingTokens > 0 && this.#waitingTokens + n * promptTokens > maxQueueTokens) {
      this.rejected.tokens++;
      throw new EngineError("ENGINE_QUEUE_FULL", `${this.#waitingTokens} prompt tokens wait, ${maxQueueTokens} may`, {
        details: { limit: "tokens", used: this.#waitingTokens, allowed: maxQueueTokens },
      });
    }
  }

  add(key: number, n: number, request: Omit<OpenRequest, "unfinished" | "notStarted">): void {
    const unfinished = new Set(Array.from({ length: n }, (_, i) => i));
    this.#requests.set(key, { ...request, unfinished, notStarted: n });
    this.#unfinished += n;
    this.#waitingTokens += n * request.promptTokens;
  }

  /** Hands on what a pass brought. */
  deliver({ key, events, score, error, last }: WireReport): void {
    const request = this.#requests.get(key);
    if (!request) return;
    if (score) request.onScore?.(score);
    for (const event of events) {
      if (event.type === "start") {
        request.notStarted--;
        this.#waitingTokens -= request.promptTokens;
      } else if (event.type === "done") {
        request.unfinished.delete(event.index);
        this.#unfinished--;
      }
      request.queue.push(event);
    }
    if (last) this.#end(key, request, error && errorFromParts(error));
  }

  /** Ends every request: each choice gets its "done", and the iterator the error. */
  failAll(error: EngineError): void {
    for (const [key, request] of [...this.#requests]) {
      const { queue, unfinished, promptTokens } = request;
      for (const index of unfinished) {
        queue.push({
          type: "done",
          index,
          finishReason: "error",
          usage: { promptTokens, cachedTokens: 0, completionTokens: 0, forwards: 0, denoisingSteps: 0 },
          timings: { queue: 0, firstBlock: 0, total: 0 },
        });
      }
      this.#end(key, request, error);
    }
  }

  #end(key: number, request: OpenRequest, error?: EngineError): void {
    this.#requests.delete(key);
    this.#unfinished -= request.unfinished.size;
    this.#waitingTokens -= request.notStarted * request.promptTokens;
    request.release();
    request.queue.end(error);
  }
}
