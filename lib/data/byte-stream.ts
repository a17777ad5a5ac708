import { fstatSync, readSync, type Stats } from "node:fs";
import { pipeline, Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { DataError } from "./errors.js";
import { formatOfBytes, refuseFormat } from "./file-format.js";

export type ByteStream = AsyncIterable<Uint8Array>;

const CHUNK = 1 << 20;
/** Text does not compress this well: large data that expands by more is a decompression bomb. */
const MAX_EXPANSION = 250;
const FREE_BYTES = 64 * 2 ** 20;

/**
 * The bytes of an open file.
 *
 * @param opened the file's stats when it was opened
 * @throws Error if the file changed while it was read
 */
export async function* readChunks(descriptor: number, opened: Stats): AsyncGenerator<Uint8Array, void, void> {
  let position = 0;
  for (;;) {
    const chunk = Buffer.allocUnsafe(CHUNK);
    const count = readSync(descriptor, chunk, 0, CHUNK, position);
    if (count === 0) break;
    position += count;
    yield chunk.subarray(0, count);
  }
  const now = fstatSync(descriptor);
  if (opened.size > 0 && (position !== opened.size || now.mtimeMs !== opened.mtimeMs)) {
    throw new Error(
      `the file changed while it was read: it had ${opened.size} bytes, ${position} were read, it has ${now.size} now`,
    );
  }
}

/**
 * Decompresses a stream if it is compressed.
 *
 * @throws DataError DATA_FORMAT if the compressed data is not text; Error if it is damaged
 */
export async function* unpacked(
  chunks: ByteStream,
  path: string,
  format: "text" | "gzip" | "zstd",
): AsyncGenerator<Uint8Array, void, void> {
  if (format === "text") return yield* chunks;
  const read = { bytes: 0 };
  const counted = countInto(chunks, read);
  let written = 0;
  let isFirst = true;
  try {
    for await (const chunk of format === "gzip" ? gunzip(counted) : unzstd(counted)) {
      if (isFirst) {
        const inner = formatOfBytes(path.replace(/\.(gz|zst|zstd)$/i, ""), chunk);
        if (inner !== "text") throw refuseFormat(path, inner, chunk);
      }
      isFirst = false;
      written += chunk.length;
      if (written > FREE_BYTES && written > MAX_EXPANSION * read.bytes) {
        const factor = Math.round(written / read.bytes);
        throw new Error(
          `it expands to more than ${factor} times its size, which text never does: it is a decompression bomb`,
        );
      }
      yield chunk;
    }
  } catch (cause) {
    const isZlib = String((cause as { code?: unknown }).code).startsWith("Z_");
    if (!isZlib || cause instanceof DataError) throw cause;
    throw new Error(`its gzip data is damaged (${(cause as Error).message})`, { cause });
  }
}

async function* countInto(chunks: ByteStream, read: { bytes: number }): AsyncGenerator<Uint8Array, void, void> {
  for await (const chunk of chunks) {
    read.bytes += chunk.length;
    yield chunk;
  }
}

async function* gunzip(chunks: ByteStream): AsyncGenerator<Uint8Array, void, void> {
  const output = createGunzip({ chunkSize: 1 << 18 });
  const input = Readable.from(chunks, { objectMode: false, highWaterMark: 1 });
  pipeline(input, output, () => {}); // the loop over `output` throws the error
  try {
    for await (const chunk of output) yield chunk as Buffer;
  } finally {
    output.destroy();
    input.destroy();
  }
}

/** Largest window of a frame, in bytes; the limit of the zstd command, too. */
const MAX_WINDOW = 128 * 2 ** 20;

/**
 * Decompresses zstd data, frame by frame. fzstd does not verify the frames' checksums, so they are verified here.
 *
 * @throws Error if the data is damaged or truncated, or needs a dictionary or too large a window
 */
export async function* unzstd(chunks: ByteStream): AsyncGenerator<Uint8Array, void, void> {
  const { Decompress } = await import("fzstd"); // loaded only when needed
  const { default: xxhash } = await import("xxhash-wasm");
  const { create64 } = await xxhash();
  const input = new Input(chunks);
  while (!(await input.isAtEnd())) {
    const magic = (await input.read(4)).readUInt32LE();
    if (magic >>> 4 === 0x184d2a5) {
      for (let left = (await input.read(4)).readUInt32LE(); left > 0; )
        left -= (await input.read(Math.min(left, 1 << 16))).length;
      continue;
    }
    if (magic !== 0xfd2fb528) throw damaged("a frame has the wrong magic number");
    const { header, hasChecksum } = await readFrameHeader(input);
    const hash = create64();
    let output: Uint8Array[] = [];
    const frame = new Decompress((chunk) => output.push(chunk));
    const push = (bytes: Uint8Array, isLast = false) => {
      try {
        frame.push(bytes, isLast);
      } catch (cause) {
        throw damaged((cause as Error).message);
      }
      const parts = output;
      output = [];
      for (const part of parts) hash.update(part);
      return parts;
    };
    yield* push(Buffer.concat([Buffer.from([0x28, 0xb5, 0x2f, 0xfd]), header]));
    for (let isLast = false; !isLast; ) {
      const block = await input.read(3);
      const word = block.readUIntLE(0, 3);
      const [type, size] = [(word >>> 1) & 3, word >>> 3];
      isLast = (word & 1) === 1;
      if (type === 3 || size > 1 << 17) throw damaged("a block has an unknown type");
      yield* push(Buffer.concat([block, await input.read(type === 1 ? 1 : size)]), isLast && !hasChecksum);
    }
    if (!hasChecksum) continue;
    const checksum = await input.read(4);
    yield* push(checksum, true);
    if (Number(hash.digest() & 0xffffffffn) !== checksum.readUInt32LE()) throw damaged("its checksum does not match");
  }
}

/** RFC 8878, section 3.1.1.1. */
async function readFrameHeader(input: Input): Promise<{ header: Buffer; hasChecksum: boolean }> {
  const descriptor = (await input.read(1))[0];
  const isSingle = (descriptor & 0x20) !== 0;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3];
  const sizeBytes = [isSingle ? 1 : 0, 2, 4, 8][descriptor >> 6];
  const rest = await input.read((isSingle ? 0 : 1) + dictionaryBytes + sizeBytes);
  const size = rest.subarray(rest.length - sizeBytes);
  const content =
    sizeBytes === 8 ? Number(size.readBigUInt64LE()) : sizeBytes === 0 ? 0 : size.readUIntLE(0, sizeBytes);
  const window = isSingle ? content : 2 ** (10 + (rest[0] >> 3)) * (1 + (rest[0] & 7) / 8);
  if (window > MAX_WINDOW) {
    const mebibytes = Math.round(window / 2 ** 20);
    throw new Error(`its zstd data needs a window of ${mebibytes} MiB, the limit is ${MAX_WINDOW / 2 ** 20} MiB`);
  }
  const dictionary = rest.subarray(isSingle ? 0 : 1, (isSingle ? 0 : 1) + dictionaryBytes);
  if (dictionary.some((byte) => byte !== 0)) throw new Error("its zstd data needs a dictionary");
  return { header: Buffer.concat([Buffer.of(descriptor), rest]), hasChecksum: (descriptor & 4) !== 0 };
}

/** Reads a given number of bytes from a stream. */
class Input {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #bytes: Buffer = Buffer.alloc(0);

  constructor(chunks: ByteStream) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  async isAtEnd(): Promise<boolean> {
    return this.#bytes.length === 0 && !(await this.#more());
  }

  async read(count: number): Promise<Buffer> {
    while (this.#bytes.length < count) if (!(await this.#more())) throw damaged("it is truncated");
    const bytes = this.#bytes.subarray(0, count);
    this.#bytes = this.#bytes.subarray(count);
    return bytes;
  }

  async #more(): Promise<boolean> {
    const { value, done } = await this.#chunks.next();
    if (done) return false;
    this.#bytes = Buffer.concat([this.#bytes, value]);
    return true;
  }
}

function damaged(what: string): Error {
  return new Error(`its zstd data is damaged (${what})`);
}
