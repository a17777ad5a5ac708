import { createHash, type Hash } from "node:crypto";
import { closeSync, fstatSync, openSync, readFileSync, readSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import { writeAll } from "../base/regular-file.js";
import { DataError } from "./errors.js";
import { damaged, TokenReader } from "./token-reader.js";

/** Header of one split's token file. */
export const tokenFileHeader = z.object({
  tokens: z.int().min(0),
  documents: z.int().min(0),
  /** UTF-8 length of all texts. */
  bytes: z.int().min(0),
  /** Bytes per token in the file. */
  width: z.union([z.literal(2), z.literal(4)]),
  /** SHA-256 (hex) of the token file, and of the table of documents. */
  tokensHash: z.string(),
  documentsHash: z.string(),
});
export type TokenFileHeader = z.infer<typeof tokenFileHeader>;

/** Number of tokens to buffer before writing. */
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

  /** @param numIds one more than the largest id, which determines whether an id takes two bytes or four */
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

  /** Appends one document. Only the buffer and the table stay in memory. */
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

  /** Writes the rest and the table, which completes the file. */
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
    writeAll(this.#file, bytes);
    this.#filled = 0;
  }
}

/** The concatenated tokens of many documents, each followed by eos. */
export class TokenFile extends TokenReader {
  readonly numDocuments: number;
  /** UTF-8 length of all texts, the denominator of bits per byte. */
  readonly numBytes: number;
  /** UTF-8 length of each document's text. */
  readonly documentBytes: Uint32Array;
  readonly #path: string;
  readonly #file: number | undefined;
  #names: string[] | undefined;

  /**
   * Opens NAME.tokens in `folder`.
   *
   * @param memoryBytes files up to this size are loaded into memory and their hash is verified; larger files are read
   *   on demand
   * @throws DataError DATA_STORE if a file is missing, truncated or does not match its header
   */
  constructor(folder: string, name: string, header: TokenFileHeader, memoryBytes = MEMORY_BYTES) {
    const path = join(folder, name);
    const { starts, documentBytes } = readTable(`${path}.documents`, header);
    const tokens = openTokens(`${path}.tokens`, header, memoryBytes);
    const { tokens: numTokens, tokensHash: hash, width } = header;
    super({ path: `${path}.tokens`, numTokens, hash, width, starts, ...tokens });
    this.#path = path;
    this.#file = tokens.file;
    this.numDocuments = header.documents;
    this.numBytes = header.bytes;
    this.documentBytes = documentBytes;
  }

  /** The ids of one document, eos included. */
  document(index: number): Int32Array {
    if (!(index >= 0 && index < this.numDocuments)) {
      throw new DataError(
        "DATA_RANGE",
        `document ${index} does not exist: the file has ${this.numDocuments} documents`,
      );
    }
    return this.read(this.starts[index], this.starts[index + 1]);
  }

  /** The name of the file a document came from. */
  documentName(index: number): string | undefined {
    this.#names ??= readFileSync(`${this.#path}.names`, "utf8").split("\n");
    return this.#names[index];
  }

  /** Closes the file if it is read on demand. */
  close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
  }
}

/** Reads the table of documents: the start of each in the tokens, and the length of its text. */
function readTable(path: string, header: TokenFileHeader): { starts: Float64Array; documentBytes: Uint32Array } {
  const { documents } = header;
  const lengths = new Uint32Array(checkedRead(path, documents * 8, header.documentsHash));
  const starts = new Float64Array(new SharedArrayBuffer(8 * (documents + 1)));
  const documentBytes = new Uint32Array(documents);
  for (let i = 0; i < documents; i++) {
    starts[i + 1] = starts[i] + lengths[2 * i];
    documentBytes[i] = lengths[2 * i + 1];
  }
  if (starts[documents] !== header.tokens)
    throw damaged(path, "its document lengths do not add up to its number of tokens");
  return { starts, documentBytes };
}

/** Loads the tokens into memory if they fit, otherwise opens the file. */
function openTokens(path: string, header: TokenFileHeader, memoryBytes: number) {
  const size = header.tokens * header.width;
  if (size <= memoryBytes) {
    const bytes = checkedRead(path, size, header.tokensHash);
    return { memory: header.width === 2 ? new Uint16Array(bytes) : new Uint32Array(bytes) };
  }
  const file = openFile(path);
  const found = fstatSync(file).size;
  if (found === size) return { file };
  closeSync(file);
  throw damaged(path, `it has ${found} bytes instead of ${size}`);
}

/** Reads and verifies a file into shared memory. */
function checkedRead(path: string, size: number, hash: string): SharedArrayBuffer {
  const file = openFile(path);
  const bytes = new Uint8Array(new SharedArrayBuffer(size));
  try {
    const found = fstatSync(file).size;
    if (found !== size) throw damaged(path, `it has ${found} bytes instead of ${size}`);
    for (let got = 0; got < size; ) {
      const more = readSync(file, bytes, got, size - got, got);
      if (more === 0) throw damaged(path, `it ends after ${got} bytes`);
      got += more;
    }
  } catch (cause) {
    throw cause instanceof DataError ? cause : damaged(path, (cause as Error).message, cause);
  } finally {
    closeSync(file);
  }
  if (createHash("sha256").update(bytes).digest("hex") !== hash) throw damaged(path, "its content has changed");
  return bytes.buffer;
}

function openFile(path: string): number {
  try {
    return openSync(path, "r");
  } catch (cause) {
    throw damaged(path, (cause as Error).message, cause);
  }
}
