import { once } from "node:events";
import type { OutgoingHttpHeaders, ServerResponse } from "node:http";

/**
 * One response as server-sent events. It waits for slow readers: `send` resolves when the socket takes more. While nothing
 * else is sent, comments keep proxies from closing the connection.
 */
export class EventStream {
  readonly #response: ServerResponse;
  readonly #keepAlive: number;
  #timer: NodeJS.Timeout | undefined;

  /** @param keepAlive seconds between two comments; 0: none */
  constructor(response: ServerResponse, keepAlive: number) {
    this.#response = response;
    this.#keepAlive = keepAlive;
  }

  /** Sends the head. After this an error can only be sent in the stream. */
  open(headers: OutgoingHttpHeaders): void {
    this.#response.writeHead(200, {
      ...headers,
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache, no-transform",
      "x-accel-buffering": "no", // nginx would hold the stream back
    });
    this.#response.flushHeaders();
    if (this.#keepAlive > 0) {
      this.#timer = setInterval(() => this.#comment(), this.#keepAlive * 1000).unref();
    }
  }

  get isOpen(): boolean {
    return this.#response.headersSent;
  }

  /**
   * @param signal ends the wait for a reader that does not read
   * @throws the signal's reason
   */
  async send(data: object, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    this.#timer?.refresh();
    if (this.#write(data)) return;
    try {
      await once(this.#response, "drain", { signal });
    } catch (error) {
      signal.throwIfAborted();
      throw error;
    }
  }

  /** Ends the stream, with the mark that clients wait for. */
  close(): void {
    clearInterval(this.#timer);
    if (!this.#response.writableEnded) this.#response.end("data: [DONE]\n\n");
  }

  /** Ends the stream with an error, if its reader reads. */
  fail(body: object): void {
    if (!this.#response.writableNeedDrain) this.#write(body);
    this.close();
    if (this.#response.writableNeedDrain) this.#response.destroy();
  }

  /** Ends the stream of a client that is gone. */
  abandon(): void {
    clearInterval(this.#timer);
    this.#response.destroy();
  }

  /** @returns whether the socket takes more */
  #write(data: object): boolean {
    return this.#response.write(`data: ${JSON.stringify(data)}\n\n`);
  }

  #comment(): void {
    // A reader that does not read has no use for comments, which would pile up.
    if (!this.#response.writableNeedDrain) this.#response.write(": keep-alive\n\n");
  }
}
