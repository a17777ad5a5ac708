import { readSync } from "node:fs";
import { DataError } from "./errors.js";

/**
 * The data behind a {@link TokenReader}. It can be sent to any thread of this process: its memory is shared, not
 * copied.
 */
export interface TokenReaderParts {
  /** Path of the file, for messages. */
  readonly path: string;
  readonly numTokens: number;
  /** SHA-256 (hex) of the tokens: equal hashes, equal training data. */
  readonly hash: string;
  /** Bytes per token in the file. */
  readonly width: 2 | 4;
  /** Start of each document, followed by the end: [number of documents + 1]. In shared memory. */
  readonly starts: Float64Array;
  /** Either the tokens in shared memory, or the descriptor of the open file. */
  readonly memory?: Uint16Array | Uint32Array;
  readonly file?: number;
}

/** Reads the concatenated tokens of documents. */
export class TokenReader {
  readonly numTokens: number;
  readonly hash: string;
  readonly starts: Float64Array;
  readonly #parts: TokenReaderParts;

  constructor(parts: TokenReaderParts) {
    this.numTokens = parts.numTokens;
    this.hash = parts.hash;
    this.starts = parts.starts;
    this.#parts = parts;
  }

  /**
   * The ids [from, to).
   *
   * @throws DataError DATA_RANGE if the range is outside the file, DATA_STORE if the file has changed
   */
  read(from: number, to: number): Int32Array {
    if (!(from >= 0 && from <= to && to <= this.numTokens)) {
      throw new DataError("DATA_RANGE", `tokens [${from}, ${to}) do not exist: the file has ${this.numTokens} tokens`);
    }
    const { memory, file, width, path } = this.#parts;
    if (memory) return new Int32Array(memory.subarray(from, to));
    const bytes = new Uint8Array((to - from) * width);
    for (let got = 0; got < bytes.length; ) {
      const more = readSync(file as number, bytes, got, bytes.length - got, from * width + got);
      if (more === 0) throw damaged(path, `it ends within tokens [${from}, ${to})`);
      got += more;
    }
    return new Int32Array(width === 2 ? new Uint16Array(bytes.buffer) : new Uint32Array(bytes.buffer));
  }

  /** Index of the document that contains token `position`. */
  documentAt(position: number): number {
    let low = 0;
    let high = this.starts.length - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.starts[middle + 1] <= position) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /**
   * Data from which another thread can make a reader; undefined for a subclass that overrides reading. Valid until the
   * reader is closed.
   */
  describe(): TokenReaderParts | undefined {
    const { read, documentAt } = TokenReader.prototype;
    return this.read === read && this.documentAt === documentAt ? this.#parts : undefined;
  }
}

export function damaged(path: string, what: string, cause?: unknown): DataError {
  return new DataError("DATA_STORE", `${path} is damaged: ${what}`, { cause });
}
