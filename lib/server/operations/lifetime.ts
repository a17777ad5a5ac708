import { setMaxListeners } from "node:events";
import type { ServerResponse } from "node:http";
import { ApiError } from "../api-error.js";

/** Why a request was given up when its client is gone. Nobody is told. */
export class ClientGone extends Error {
  override readonly name = "ClientGone";
}

export interface LifetimeLimits {
  /** Seconds; 0: for ever. */
  queueTimeout: number;
  requestTimeout: number;
  retryAfter: () => number;
}

/**
 * How long a request lives: until its client goes (in a stream or not, waiting or running), its time is up, or the
 * server stops. Then `signal` is aborted with the reason: a {@link ClientGone} or an {@link ApiError}.
 */
export class Lifetime {
  readonly signal: AbortSignal;
  readonly #controller = new AbortController();
  readonly #response: ServerResponse;
  readonly #onClose: () => void;
  #queueTimer: NodeJS.Timeout | undefined;
  readonly #timer: NodeJS.Timeout | undefined;

  constructor(response: ServerResponse, { queueTimeout, requestTimeout, retryAfter }: LifetimeLimits) {
    this.signal = this.#controller.signal;
    setMaxListeners(0, this.signal); // every prompt of a request listens
    this.#response = response;
    this.#onClose = () => {
      if (!response.writableFinished) this.end(new ClientGone("the client has closed the connection"));
    };
    response.once("close", this.#onClose);
    if (response.destroyed || response.socket?.destroyed) this.#onClose();
    const after = (seconds: number, error: () => ApiError) =>
      seconds > 0 ? setTimeout(() => this.end(error()), seconds * 1000).unref() : undefined;
    this.#queueTimer = after(queueTimeout, () => {
      const message = `the request waited ${queueTimeout} s for its turn; try again later`;
      return new ApiError("queue_timeout", message, { retryAfter: retryAfter() });
    });
    this.#timer = after(requestTimeout, () => {
      return new ApiError("request_timeout", `the request took longer than ${requestTimeout} s`);
    });
  }

  /** It waits no more. */
  began(): void {
    clearTimeout(this.#queueTimer);
    this.#queueTimer = undefined;
  }

  /** Gives the request up. */
  end(reason: Error): void {
    if (!this.signal.aborted) this.#controller.abort(reason);
  }

  /** It is over. */
  dispose(): void {
    clearTimeout(this.#queueTimer);
    clearTimeout(this.#timer);
    this.#response.off("close", this.#onClose);
  }
}
