import type { IncomingMessage } from "node:http";
import { ApiError } from "../errors.js";
import { ClientGone } from "./request-scope.js";

/** Bytes of a body that are taken whatever others hold: as many small requests as there are connections always fit. */
const SMALL = 64 * 2 ** 10;
const FIRST_CAPACITY = 16 * 2 ** 10;

/** Bytes of bodies that are in memory, of all requests that are not over. */
export class Uploads {
  readonly #limit: number;
  #held = 0;
  /** Requests that were refused. */
  rejected = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get held(): number {
    return this.#held;
  }

  /** @internal What of so many bytes counts. */
  static counted(bytes: number): number {
    return Math.max(0, bytes - SMALL);
  }

  /** @throws ApiError uploads_full */
  hold(bytes: number): void {
    if (this.#held + bytes > this.#limit) {
      this.rejected++;
      const message = `requests hold ${this.#held} of the ${this.#limit} bytes that their bodies may; try again later`;
      throw new ApiError("uploads_full", message, { retryAfter: 1 });
    }
    this.#held += bytes;
  }

  release(bytes: number): void {
    this.#held -= bytes;
  }

  /** Whether a body of so many bytes would fit now. @throws ApiError uploads_full */
  check(bytes: number): void {
    const counted = Uploads.counted(bytes);
    this.hold(counted);
    this.release(counted);
  }
}

/** The body of one request. It must be released when the request is over. */
export class Upload {
  readonly #uploads: Uploads;
  #bytes = 0;
  #isOver = false;

  constructor(uploads: Uploads) {
    this.#uploads = uploads;
  }

  release(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#uploads.release(Uploads.counted(this.#bytes));
  }

  /**
   * Reads a body. One that says it is too large is refused before it is read; of one that turns out to be, the rest is
   * thrown away.
   *
   * @param limit bytes of this body
   * @throws ApiError body_too_large, uploads_full; ClientGone
   */
  async read(request: IncomingMessage, limit: number): Promise<Buffer> {
    const declared = Number(request.headers["content-length"] ?? 0);
    const tooLarge = () => new ApiError("body_too_large", `the body is larger than ${limit} bytes`);
    if (declared > limit) throw tooLarge();
    this.#uploads.check(declared);
    // Grows as bytes come: what is declared costs nothing, and neither do bytes that come one by one.
    let body = Buffer.allocUnsafe(Math.min(Math.max(declared, 1), FIRST_CAPACITY));
    let length = 0;
    await new Promise<void>((resolve, reject) => {
      const settle = (error?: Error) => {
        request.off("data", onData).off("end", onEnd).off("close", onClose).off("error", onClose);
        if (!error) {
          resolve();
          return;
        }
        request.on("error", () => {}).resume();
        reject(error);
      };
      const onEnd = () => settle();
      const onClose = () => settle(new ClientGone("the client has closed the connection"));
      const onData = (piece: Buffer) => {
        if (length + piece.length > limit) {
          settle(tooLarge());
          return;
        }
        try {
          this.#grow(piece.length);
        } catch (error) {
          settle(error as Error);
          return;
        }
        if (length + piece.length > body.length) {
          const larger = Buffer.allocUnsafe(Math.min(limit, Math.max(2 * body.length, length + piece.length)));
          body.copy(larger, 0, 0, length);
          body = larger;
        }
        piece.copy(body, length);
        length += piece.length;
      };
      request.on("data", onData).once("end", onEnd).once("close", onClose).once("error", onClose);
    });
    return body.subarray(0, length);
  }

  #grow(bytes: number): void {
    if (this.#isOver) return;
    this.#uploads.hold(Uploads.counted(this.#bytes + bytes) - Uploads.counted(this.#bytes));
    this.#bytes += bytes;
  }
}
