import type { Reservation } from "./admission.js";
import type { EngineError } from "./errors.js";
import type { EventQueue } from "./event-queue.js";
import { errorFromParts, type WireReport } from "./protocol.js";
import type { EngineEvent, ScoreResult } from "./types.js";

/** A request when it is given to the engine. */
export interface NewRequest {
  queue: EventQueue<EngineEvent>;
  promptTokens: number;
  place: Reservation;
  /** Choices that count as waiting until they begin. */
  queued: number;
  /** Receives the result of a score. */
  onScore?(result: ScoreResult): void;
  /** Called when the request has ended. */
  release(): void;
}

interface OpenRequest extends NewRequest {
  /** Choices not done. */
  unfinished: Set<number>;
}

/** The requests of an engine that are not done, and where their events go. */
export class OpenRequests {
  readonly #requests = new Map<number, OpenRequest>();
  #unfinished = 0;

  get size(): number {
    return this.#requests.size;
  }

  /** Choices not done. */
  get unfinished(): number {
    return this.#unfinished;
  }

  has(key: number): boolean {
    return this.#requests.has(key);
  }

  /** @param n choices that will be reported */
  add(key: number, n: number, request: NewRequest): void {
    const unfinished = new Set(Array.from({ length: n }, (_, i) => i));
    this.#requests.set(key, { ...request, unfinished });
    this.#unfinished += n;
  }

  /** Delivers what a pass produced. */
  deliver({ key, events, score, error, last }: WireReport): void {
    const request = this.#requests.get(key);
    if (!request) return;
    const { place } = request;
    if (score) request.onScore?.(score);
    for (const event of events) {
      if (event.type === "start") {
        place.begin();
        this.#unqueue(request, 1);
      } else if (event.type === "text") {
        place.generated(event.ids.length);
      } else if (event.type === "done") {
        request.unfinished.delete(event.index);
        this.#unfinished--;
      }
      request.queue.push(event);
    }
    if (last) this.#end(key, request, error && errorFromParts(error));
  }

  /** A request is being aborted: its choices that have not begun no longer count as waiting, before the core handles it. */
  leaveQueue(key: number): void {
    const request = this.#requests.get(key);
    if (request) this.#unqueue(request, request.queued);
  }

  /** Ends a request: each choice gets its "done", and the iterator the error. */
  fail(key: number, error: EngineError): void {
    const request = this.#requests.get(key);
    if (!request) return;
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

  failAll(error: EngineError): void {
    for (const key of [...this.#requests.keys()]) this.fail(key, error);
  }

  #unqueue(request: OpenRequest, choices: number): void {
    const left = Math.min(choices, request.queued);
    request.queued -= left;
    if (left > 0) request.place.leaveQueue(left, left * request.promptTokens);
  }

  #end(key: number, request: OpenRequest, error?: EngineError): void {
    this.#requests.delete(key);
    this.#unfinished -= request.unfinished.size;
    this.#unqueue(request, request.queued);
    request.release();
    request.queue.end(error);
  }
}
