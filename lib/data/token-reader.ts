import { readSync } from "node:fs";
import { DataError } from "./errors.js";

/** What a reader is made of. Any thread of this process may be given it: its memory is shared, not copied. */
export interface TokenReaderParts {
  /** For messages. */
  readonly path: string;
  readonly numTokens: number;
  /** SHA-256 (hex) of the tokens: equal hashes, equal training data. */
  readonly hash: string;
  /** Bytes of one token in the file. */
  readonly width: 2 | 4;
  /** Where each document starts, then the end: [number of documents + 1]. In shared memory. */
  readonly starts: Float64Array;
  /** The tokens in shared memory, or the descriptor of the open file: one of the two. */
  readonly memory?: Uint16Array | Uint32Array;
  readonly file?: number;
}

/** Reads the tokens of documents that lie one after the other. */
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
   * Ids [from, to).
   *
   * @throws DataError DATA_RANGE if they are not all there, DATA_STORE if the file is not what it was
   */
  read(from: number, to: number): Int32Array {
    if (!(from >= 0 && from <= to && to <= this.numTokens)) {
      throw new DataError("DATA_RANGE", `tokens [${from}, ${to}) asked of ${this.numTokens}`);
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

  /** Number of the document that token `position` belongs to. */
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

  /** What another thread makes a reader of; undefined where a subclass reads in its own way. Valid until it is closed. */
  describe(): TokenReaderParts | undefined {
    const { read, documentAt } = TokenReader.prototype;
    return this.read === read && this.documentAt === documentAt ? this.#parts : undefined;
  }
}

export function damaged(path: string, what: string, cause?: unknown): DataError {
  return new DataError("DATA_STORE", `${path} is damaged: ${what}`, { cause });
}
