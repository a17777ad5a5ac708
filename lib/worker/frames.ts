import { write } from "node:fs";
import { deserialize, serialize } from "node:v8";

// Values over a byte stream between two processes: each by the structured clone algorithm, after its length.

/** File descriptors to which a child process writes its replies, as frames, and its heartbeats, as bytes. */
export const REPLIES_FD = 4;
export const PULSE_FD = 5;

const HEAD = 4;

/**
 * Writes values to a file descriptor, in order, from a thread of libuv's pool. A write to a pipe hands its processor to the
 * reader, so a write from this thread would block it for as long as the reader works.
 */
export class FrameWriter {
  readonly #fd: number;
  #queue: Buffer[] = [];
  #writing = false;
  #onWritten: (() => void)[] = [];

  constructor(fd: number) {
    this.#fd = fd;
  }

  write(value: unknown): void {
    const body = serialize(value);
    const head = Buffer.allocUnsafe(HEAD);
    head.writeUInt32LE(body.length);
    this.#queue.push(head, body);
    if (!this.#writing) this.#drain();
  }

  /** Resolves when all values are written, or the reader is gone. */
  flush(): Promise<void> {
    return new Promise((resolve) => {
      this.#onWritten.push(resolve);
      if (!this.#writing) this.#drain();
    });
  }

  #drain(): void {
    if (this.#queue.length === 0) {
      for (const resolve of this.#onWritten.splice(0)) resolve();
      return;
    }
    const bytes = Buffer.concat(this.#queue);
    this.#queue = [];
    this.#writing = true;
    this.#put(bytes);
  }

  #put(bytes: Buffer): void {
    write(this.#fd, bytes, (error, written) => {
      if (!error && written < bytes.length) {
        this.#put(bytes.subarray(written));
        return;
      }
      this.#writing = false;
      if (error) this.#queue = []; // the reader is gone
      this.#drain();
    });
  }
}

/** Parses the values that a {@link FrameWriter} wrote from pieces of any size. */
export class FrameReader {
  #parts: Buffer[] = [];
  #length = 0;
  #wanted = HEAD;

  /** @returns the values that this piece completes */
  push(piece: Buffer): unknown[] {
    this.#parts.push(piece);
    this.#length += piece.length;
    const values: unknown[] = [];
    if (this.#length < this.#wanted) return values;
    let bytes = this.#parts.length === 1 ? piece : Buffer.concat(this.#parts);
    for (;;) {
      this.#wanted = bytes.length < HEAD ? HEAD : HEAD + bytes.readUInt32LE();
      if (bytes.length < this.#wanted) break;
      values.push(deserialize(bytes.subarray(HEAD, this.#wanted)));
      bytes = bytes.subarray(this.#wanted);
    }
    this.#parts = [bytes];
    this.#length = bytes.length;
    return values;
  }
}
