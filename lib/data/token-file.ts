import { createHash, type Hash } from "node:crypto";
import { closeSync, fstatSync, openSync, readFileSync, readSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import { DataError } from "./errors.js";

/** What is known of a token file; the part of the header that one split has. */
export const tokenFileHeader = z.object({
  tokens: z.int().min(0),
  documents: z.int().min(0),
  /** UTF-8 length of all texts. */
  bytes: z.int().min(0),
  /** Bytes of one token in the file. */
  width: z.union([z.literal(2), z.literal(4)]),
  /** SHA-256 (hex) of the token file, and of the table of documents. */
  tokensHash: z.string(),
  documentsHash: z.string(),
});
export type TokenFileHeader = z.infer<typeof tokenFileHeader>;

/** Buffered tokens before they go to the file. */
const WRITE_TOKENS = 1 << 19;
const MEMORY_BYTES = 256 * 2 ** 20;

/** Writes documents to NAME.tokens (all ids, one after the other) and NAME.documents (per document: tokens, bytes). */
export class TokenFileWriter {
  readonly #folder: string;
  readonly #name: string;
  readonly #file: number;
  readonly #buffer: Uint16Array | Uint32Array;
  readonly #hash: Hash = createHash("sha256");
  readonly #lengths: number[] = [];
  readonly #names: string[] = [];
  #filled = 0;
  #tokens = 0;
  #bytes = 0;

  /** @param numIds one more than the highest id: decides whether an id takes two bytes or four */
  constructor(folder: string, name: string, numIds: number) {
    this.#folder = folder;
    this.#name = name;
    this.#buffer = numIds <= 65536 ? new Uint16Array(WRITE_TOKENS) : new Uint32Array(WRITE_TOKENS);
    this.#file = openSync(join(folder, `${name}.tokens`), "w");
  }

  /** Number of documents so far. */
  get documents(): number {
    return this.#names.length;
  }

  /** Appends one document. Memory holds the buffer and the table, not the tokens. */
  append(ids: ArrayLike<number>, bytes: number, name: string): void {
    this.#lengths.push(ids.length, bytes);
    this.#names.push(name.replaceAll("\n", " "));
    this.#tokens += ids.length;
    this.#bytes += bytes;
    for (let i = 0; i < ids.length; i++) {
      if (this.#filled === this.#buffer.length) this.#flush();
      this.#buffer[this.#filled++] = ids[i];
    }
  }

  /** Writes the rest and the table; the file is complete then. */
  finish(): TokenFileHeader {
    this.#flush();
    closeSync(this.#file);
    const table = Buffer.from(Uint32Array.from(this.#lengths).buffer);
    writeFileSync(join(this.#folder, `${this.#name}.documents`), table);
    writeFileSync(join(this.#folder, `${this.#name}.names`), this.#names.join("\n"));
    return {
      tokens: this.#tokens,
      documents: this.#names.length,
      bytes: this.#bytes,
      width: this.#buffer.BYTES_PER_ELEMENT as 2 | 4,
      tokensHash: this.#hash.digest("hex"),
      documentsHash: createHash("sha256").update(table).digest("hex"),
    };
  }

  /** Closes the file after a failure. */
  abandon(): void {
    try {
      closeSync(this.#file);
    } catch {
      // Already closed.
    }
  }

  #flush(): void {
    const bytes = new Uint8Array(this.#buffer.buffer, 0, this.#filled * this.#buffer.BYTES_PER_ELEMENT);
    this.#hash.update(bytes);
    for (let written = 0; written < bytes.length; ) written += writeSync(this.#file, bytes, written);
    this.#filled = 0;
  }
}

/** The tokens of many documents, one after the other, each closed by eos. */
export class TokenFile {
  readonly numTokens: number;
  readonly numDocuments: number;
  /** UTF-8 length of all texts: what bits per byte divides by. */
  readonly numBytes: number;
  /** SHA-256 (hex) of the tokens: equal hashes, equal training data. */
  readonly hash: string;
  /** Where each document starts, then the end: [numDocuments + 1]. */
  readonly starts: Float64Array;
  /** UTF-8 length of each document's text. */
  readonly documentBytes: Uint32Array;
  readonly #path: string;
  readonly #width: 2 | 4;
  readonly #memory: Uint16Array | Uint32Array | undefined;
  readonly #file: number | undefined;
  #names: string[] | undefined;

  /**
   * Opens NAME.tokens in `folder`.
   *
   * @param memoryBytes files up to this size are kept in memory, their hash checked; larger ones are read where asked
   * @throws DataError DATA_STORE if a file is missing, cut off or not what its header says
   */
  constructor(folder: string, name: string, header: TokenFileHeader, memoryBytes = MEMORY_BYTES) {
    this.#path = join(folder, name);
    this.#width = header.width;
    this.numTokens = header.tokens;
    this.numDocuments = header.documents;
    this.numBytes = header.bytes;
    this.hash = header.tokensHash;
    const table = checkedRead(`${this.#path}.documents`, header.documents * 8, header.documentsHash);
    const lengths = new Uint32Array(table.buffer, table.byteOffset, table.length / 4);
    this.starts = new Float64Array(header.documents + 1);
    this.documentBytes = new Uint32Array(header.documents);
    for (let i = 0; i < header.documents; i++) {
      this.starts[i + 1] = this.starts[i] + lengths[2 * i];
      this.documentBytes[i] = lengths[2 * i + 1];
    }
    if (this.starts[header.documents] !== header.tokens) throw torn(this.#path, "its table does not add up");
    const size = header.tokens * header.width;
    if (size <= memoryBytes) {
      const bytes = checkedRead(`${this.#path}.tokens`, size, header.tokensHash);
      this.#memory =
        header.width === 2
          ? new Uint16Array(bytes.buffer, bytes.byteOffset, header.tokens)
          : new Uint32Array(bytes.buffer, bytes.byteOffset, header.tokens);
    } else {
      this.#file = openSync(`${this.#path}.tokens`, "r");
      const found = fstatSync(this.#file).size;
      if (found !== size) {
        this.close();
        throw torn(`${this.#path}.tokens`, `it has ${found} bytes instead of ${size}`);
      }
    }
  }

  /**
   * Ids [from, to).
   *
   * @throws DataError DATA_RANGE if they are not all there
   */
  read(from: number, to: number): Int32Array {
    if (!(from >= 0 && from <= to && to <= this.numTokens)) {
      throw new DataError("DATA_RANGE", `tokens [${from}, ${to}) asked of ${this.numTokens}`);
    }
    if (this.#memory) return Int32Array.from(this.#memory.subarray(from, to));
    const bytes = new Uint8Array((to - from) * this.#width);
    const got = readSync(this.#file as number, bytes, 0, bytes.length, from * this.#width);
    if (got !== bytes.length) throw torn(`${this.#path}.tokens`, `it ends within tokens [${from}, ${to})`);
    return Int32Array.from(this.#width === 2 ? new Uint16Array(bytes.buffer) : new Uint32Array(bytes.buffer));
  }

  /** The ids of one document, eos included. */
  document(index: number): Int32Array {
    if (!(index >= 0 && index < this.numDocuments)) {
      throw new DataError("DATA_RANGE", `document ${index} asked of ${this.numDocuments}`);
    }
    return this.read(this.starts[index], this.starts[index + 1]);
  }

  /** The name of the file a document came from. */
  documentName(index: number): string | undefined {
    this.#names ??= readFileSync(`${this.#path}.names`, "utf8").split("\n");
    return this.#names[index];
  }

  /** Number of the document that token `position` belongs to. */
  documentAt(position: number): number {
    let low = 0;
    let high = this.numDocuments;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.starts[middle + 1] <= position) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Closes the file of a large store; a small one is in memory and needs nothing. */
  close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
  }
}

/** The bytes of a file in a buffer of their own, aligned for any typed array. */
function checkedRead(path: string, size: number, hash: string): Buffer {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (cause) {
    throw torn(path, (cause as Error).message, cause);
  }
  if (bytes.length !== size) throw torn(path, `it has ${bytes.length} bytes instead of ${size}`);
  if (createHash("sha256").update(bytes).digest("hex") !== hash) throw torn(path, "its content has changed");
  return bytes.byteOffset % 4 === 0 ? bytes : Buffer.from(new Uint8Array(bytes).buffer);
}

function torn(path: string, what: string, cause?: unknown): DataError {
  return new DataError("DATA_STORE", `${path} is damaged: ${what}`, { cause });
}
