import { setMaxListeners } from "node:events";
import type { ServerResponse } from "node:http";

/** The reason of a request that ended because its client closed the connection. Nobody receives it. */
export class ClientGone extends Error {
  override readonly name = "ClientGone";
}

/**
 * How long a request lives: until its client goes (in a stream or not, waiting or running), the engine's time limits end
 * it, or the server stops. Then `signal` is aborted with the reason: a {@link ClientGone}, an EngineError or an ApiError.
 */
export class RequestScope {
  readonly signal: AbortSignal;
  readonly #controller = new AbortController();
  readonly #response: ServerResponse;
  readonly #onClose: () => void;
  readonly #limits: AbortSignal;
  readonly #onLimit: () => void;

  /** @param limits aborted with the reason when the engine's time limits end the request */
  constructor(response: ServerResponse, limits: AbortSignal) {
    this.signal = this.#controller.signal;
    setMaxListeners(0, this.signal); // every prompt of a request listens
    this.#response = response;
    this.#onClose = () => {
      if (!response.writableFinished) this.end(new ClientGone("the client has closed the connection"));
    };
    response.once("close", this.#onClose);
    if (response.destroyed || response.socket?.destroyed) this.#onClose();
    this.#limits = limits;
    this.#onLimit = () => this.end(limits.reason as Error);
    limits.addEventListener("abort", this.#onLimit, { once: true });
  }

  /** Ends the request early. */
  end(reason: Error): void {
    if (!this.signal.aborted) this.#controller.abort(reason);
  }

  /** Releases the listeners at the end of the request. */
  dispose(): void {
    this.#response.off("close", this.#onClose);
    this.#limits.removeEventListener("abort", this.#onLimit);
  }
}
