import type { ByteStream } from "./byte-stream.js";

/** Memory that one frame may ask for; zstd's own tool takes no more either. */
const MAX_WINDOW = 128 * 2 ** 20;

/**
 * Unpacks zstd data, frame by frame. fzstd does not look at the frames' checksums, so they are compared here.
 *
 * @throws Error if the data is damaged, cut off or needs a dictionary or too much memory
 */
export async function* unzstd(chunks: ByteStream): AsyncGenerator<Uint8Array, void, void> {
  const { Decompress } = await import("fzstd"); // loaded where they are needed
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
    if (magic !== 0xfd2fb528) throw damaged("a frame begins with other bytes");
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
      if (type === 3 || size > 1 << 17) throw damaged("a block of no known kind");
      yield* push(Buffer.concat([block, await input.read(type === 1 ? 1 : size)]), isLast && !hasChecksum);
    }
    if (!hasChecksum) continue;
    const checksum = await input.read(4);
    yield* push(checksum, true);
    if (Number(hash.digest() & 0xffffffffn) !== checksum.readUInt32LE()) throw damaged("its checksum is another one");
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

/** Bytes of a stream, as many as are asked for. */
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
    while (this.#bytes.length < count) if (!(await this.#more())) throw damaged("it is cut off");
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
