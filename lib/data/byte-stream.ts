import { fstatSync, readSync, type Stats } from "node:fs";
import { pipeline, Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { DataError } from "./errors.js";
import { formatOfBytes, refuseFormat } from "./file-format.js";
import { unzstd } from "./zstd.js";

export type ByteStream = AsyncIterable<Uint8Array>;

const CHUNK = 1 << 20;
/** Text does not compress so well: what grows more, and is large, was made to fill memory or time. */
const MAX_EXPANSION = 250;
const FREE_BYTES = 64 * 2 ** 20;

/**
 * The bytes of an open file.
 *
 * @param opened what it was when it was opened
 * @throws Error if the file is another one at its end than it was at its start
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
    throw new Error(`it changed while it was read: ${opened.size} bytes at first, ${position} read, ${now.size} now`);
  }
}

/**
 * The text in a stream that may be compressed.
 *
 * @throws DataError DATA_FORMAT if what was compressed is not text; Error if the compressed data is damaged
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
        throw new Error(`it unpacks to more than ${factor} times its size, as no text does: a decompression bomb`);
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
  pipeline(input, output, () => {}); // an error comes out of the loop
  try {
    for await (const chunk of output) yield chunk as Buffer;
  } finally {
    output.destroy();
    input.destroy();
  }
}
