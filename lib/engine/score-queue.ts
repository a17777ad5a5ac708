import { setImmediate as nextTurn } from "node:timers/promises";
import { EngineError } from "./errors.js";
import type { ScoreSettings } from "./options.js";
import type { ScoreResult } from "./types.js";

/** A text to be scored, as it goes to the engine's core. */
export interface ScoreRequest {
  /** Unique among the requests of an engine. */
  key: number;
  tokens: Int32Array;
  settings: ScoreSettings;
  /** Date.now() when it was given to the engine. */
  arrival: number;
}

export interface ScoreListener {
  onStart(request: ScoreRequest): void;
  /** How it ended, once: with a result, an error, or neither when it was aborted. */
  onEnd(request: ScoreRequest, outcome: { result?: ScoreResult; error?: EngineError }): void;
}

/**
 * Scores texts one after the other, one pass per turn of the event loop, so that passes of the batch and aborts come
 * between. While the batch has work, it gets as much time as the scores.
 */
export class ScoreQueue {
  readonly #score: (request: ScoreRequest, signal: AbortSignal) => Promise<ScoreResult>;
  readonly #listener: ScoreListener;
  readonly #isBatchBusy: () => boolean;
  readonly #waiting = new Map<number, ScoreRequest>();
  #running: { request: ScoreRequest; controller: AbortController } | undefined;
  #loop: Promise<void> | undefined;

  /** @param isBatchBusy whether the batch has work for the model */
  constructor(
    score: (request: ScoreRequest, signal: AbortSignal) => Promise<ScoreResult>,
    listener: ScoreListener,
    isBatchBusy: () => boolean,
  ) {
    this.#isBatchBusy = isBatchBusy;
    this.#score = score;
    this.#listener = listener;
  }

  get waiting(): readonly ScoreRequest[] {
    return [...this.#waiting.values()];
  }

  get running(): number {
    return this.#running ? 1 : 0;
  }

  add(request: ScoreRequest): void {
    this.#waiting.set(request.key, request);
    this.#loop ??= this.#run();
  }

  /**
   * Ends a request; one that runs, after the current pass.
   *
   * @param error the outcome; without one the request was aborted
   * @returns whether the request was in the queue
   */
  abort(key: number, error?: EngineError): boolean {
    const waiting = this.#waiting.get(key);
    if (waiting) {
      this.#waiting.delete(key);
      this.#listener.onEnd(waiting, { error });
      return true;
    }
    if (this.#running?.request.key !== key) return false;
    this.#running.controller.abort(error);
    return true;
  }

  /** Ends all with an error, and waits for the current pass. */
  async close(error: EngineError): Promise<void> {
    for (const request of this.waiting) this.#listener.onEnd(request, { error });
    this.#waiting.clear();
    this.#running?.controller.abort(error);
    await this.#loop;
  }

  async #run(): Promise<void> {
    try {
      for (;;) {
        await nextTurn();
        const [request] = this.#waiting.values();
        if (!request) return;
        this.#waiting.delete(request.key);
        const began = performance.now();
        await this.#work(request);
        const ended = performance.now();
        while (this.#isBatchBusy() && performance.now() - ended < ended - began) await nextTurn();
      }
    } finally {
      this.#loop = undefined;
    }
  }

  async #work(request: ScoreRequest): Promise<void> {
    const controller = new AbortController();
    const { signal } = controller;
    this.#running = { request, controller };
    this.#listener.onStart(request);
    const outcome = await this.#score(request, signal).then(
      (result) => ({ result }),
      (error: unknown) => ({ error: asEngineError(error) }),
    );
    this.#running = undefined;
    const reason: unknown = signal.reason;
    if (!signal.aborted) this.#listener.onEnd(request, outcome);
    else this.#listener.onEnd(request, reason instanceof EngineError ? { error: reason } : {});
  }
}

function asEngineError(error: unknown): EngineError {
  if (error instanceof EngineError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new EngineError("ENGINE_INTERNAL", `the score failed: ${message}`, { cause: error });
}
