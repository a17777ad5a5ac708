import type { LinkEvents, StartLink } from "./link.js";
import {
  type ArgumentOf,
  type Handlers,
  type Reply,
  type ResultOf,
  receivedError,
  type SentError,
} from "./messages.js";

export interface ClientOptions<Event> {
  /** Handles an event of the worker. */
  onEvent?(event: Event): void;
  /** Called once if the worker ends or is unusable, unless `kill` ended it. */
  onEnd?(error: Error): void;
  onPulse?: LinkEvents["onPulse"];
  /** Makes an error of the worker an error of its class again. Undefined: a plain Error with its name and code. */
  revive?(error: SentError): Error | undefined;
  /** Whether a request that waits for its reply keeps this process alive. Default: nothing but `ref` does. */
  keepsProcess?: boolean;
}

interface Waiting {
  resolve(result: unknown): void;
  reject(error: Error): void;
}

/**
 * The client of a worker: a thread, a child process, or handlers in this thread, which a link starts. Requests are typed by
 * the worker's handlers `H`.
 */
export class WorkerClient<H extends Handlers<H>, Event = never> {
  /** Resolves when the worker has its handlers. Rejects with the error that ended it before. */
  readonly ready: Promise<void>;
  readonly #options: ClientOptions<Event>;
  readonly #waiting = new Map<number, Waiting>();
  readonly #link: ReturnType<StartLink>;
  #ids = 0;
  #failure: Error | undefined;
  #isReady = false;
  #settleReady: Waiting | undefined;

  /** @throws DOMException DataCloneError for data that a thread cannot be given, and Node's error where none can be started */
  constructor(start: StartLink, options: ClientOptions<Event> = {}) {
    this.#options = options;
    this.ready = new Promise<void>((resolve, reject) => {
      this.#settleReady = { resolve: () => resolve(), reject };
    });
    this.ready.catch(() => {}); // requests reject with the same error
    this.#link = start({
      onReply: (reply) => this.#onReply(reply),
      onEnd: (error) => this.#end(error),
      onPulse: options.onPulse,
    });
    this.#link.unref();
  }

  get isReady(): boolean {
    return this.#isReady;
  }

  /** Requests without a reply yet. */
  get numWaiting(): number {
    return this.#waiting.size;
  }

  /** Why the worker answers no more requests: a WorkerEnded, or what its set-up threw. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /** The id of a child process. */
  get pid(): number | undefined {
    return this.#link.pid;
  }

  /**
   * Sends a request. Requests begin in the order in which they are sent.
   *
   * @param buffers what the worker is given with the argument, instead of a copy
   * @returns the handler's result; rejects with what it threw, or with {@link failure}
   */
  call<K extends keyof H>(
    kind: K,
    argument: ArgumentOf<H, K>,
    buffers?: readonly ArrayBuffer[],
  ): Promise<ResultOf<H, K>> {
    const result = new Promise<unknown>((resolve, reject) => {
      if (this.#failure) {
        reject(this.#failure);
        return;
      }
      const id = this.#ids++;
      this.#waiting.set(id, { resolve, reject });
      if (this.#options.keepsProcess && this.#waiting.size === 1) this.#link.ref();
      try {
        this.#link.send({ id, kind, argument }, buffers);
      } catch (error) {
        this.#take(id); // an argument that cannot be sent
        reject(error);
      }
    });
    return result as Promise<ResultOf<H, K>>;
  }

  /** Sends a request without waiting for its end. If its handler throws, the worker ends. */
  post<K extends keyof H>(kind: K, argument: ArgumentOf<H, K>, buffers?: readonly ArrayBuffer[]): void {
    if (!this.#failure) this.#link.send({ kind, argument }, buffers);
  }

  /** Makes the worker keep this process alive. */
  ref(): void {
    this.#link.ref();
  }

  /** Lets this process end although the worker runs. */
  unref(): void {
    this.#link.unref();
  }

  /** Ends the worker at once. Requests that wait reject with `reason`. */
  async kill(reason: Error = new Error("the worker was ended")): Promise<void> {
    this.#fail(reason);
    await this.#link.kill();
  }

  #onReply(reply: Reply): void {
    switch (reply.kind) {
      case "ready":
        this.#isReady = true;
        this.#settleReady?.resolve(undefined);
        return;
      case "unusable":
        this.#end(this.#revive(reply.error));
        void this.#link.kill();
        return;
      case "result":
        this.#take(reply.id)?.resolve(reply.result);
        return;
      case "error":
        this.#take(reply.id)?.reject(this.#revive(reply.error));
        return;
      case "event":
        if (!this.#failure) this.#options.onEvent?.(reply.event as Event);
    }
  }

  #revive(error: SentError): Error {
    return this.#options.revive?.(error) ?? receivedError(error);
  }

  #take(id: number): Waiting | undefined {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (this.#options.keepsProcess && this.#waiting.size === 0) this.#link.unref();
    return waiting;
  }

  #end(error: Error): void {
    if (this.#failure) return;
    this.#fail(error);
    this.#options.onEnd?.(error);
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#isReady = false;
    this.#settleReady?.reject(error);
    const lost = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { reject } of lost) reject(error);
  }
}
