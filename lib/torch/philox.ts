/**
 * Philox4x32-10: a counter-based random number generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * SC 2011; the Random123 library). Every number of every stream is computed directly, so a random choice can depend on
 * (seed, stage, sample) only, and not on earlier draws.
 */

const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;
const ROUNDS = 10;
const TWO_32 = 4294967296;
/** Top bit of counter word 3: set when a stream number is absorbed into the key, clear when numbers are drawn. */
const ABSORB = 0x80000000;

/**
 * Computes one block: four random words from a counter of four words and a key of two. Words may be given as signed or
 * unsigned; `out[offset..offset+3]` receives them unsigned.
 *
 * @throws nothing; `out` must have room for four words at `offset`
 */
export function philoxBlock(
  out: Uint32Array,
  offset: number,
  c0: number,
  c1: number,
  c2: number,
  c3: number,
  k0: number,
  k1: number,
): void {
  for (let round = 0; round < ROUNDS; round++) {
    // The high words of c0 * MULTIPLIER_0 and c2 * MULTIPLIER_1, computed by 16-bit halves, because a double product
    // would lose bits.
    let low = c0 & 0xffff;
    let high = c0 >>> 16;
    let middle = Math.imul(high, MULTIPLIER_0 & 0xffff) >>> 0;
    middle += Math.imul(low, MULTIPLIER_0 & 0xffff) >>> 16;
    let cross = (Math.imul(low, MULTIPLIER_0 >>> 16) >>> 0) + (middle & 0xffff);
    const high0 = (Math.imul(high, MULTIPLIER_0 >>> 16) + (middle >>> 16) + (cross >>> 16)) | 0;
    const low0 = Math.imul(c0, MULTIPLIER_0);
    low = c2 & 0xffff;
    high = c2 >>> 16;
    middle = Math.imul(high, MULTIPLIER_1 & 0xffff) >>> 0;
    middle += Math.imul(low, MULTIPLIER_1 & 0xffff) >>> 16;
    cross = (Math.imul(low, MULTIPLIER_1 >>> 16) >>> 0) + (middle & 0xffff);
    const high1 = (Math.imul(high, MULTIPLIER_1 >>> 16) + (middle >>> 16) + (cross >>> 16)) | 0;
    const low1 = Math.imul(c2, MULTIPLIER_1);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + WEYL_0) | 0;
    k1 = (k1 + WEYL_1) | 0;
  }
  out[offset] = c0;
  out[offset + 1] = c1;
  out[offset + 2] = c2;
  out[offset + 3] = c3;
}

/**
 * A stream of random numbers that is a pure function of (seed, streams, position).
 *
 * The seed (64 bits) is the key. The last stream number takes two words of the counter, so streams that differ only in
 * it never overlap; each earlier one is absorbed into the key by one block. `new Philox(seed, stage, sample)` is thus
 * cheap (one block) and `sample` may be any safe integer. A stream has 2^34 words and then repeats.
 */
export class Philox {
  readonly #key0: number;
  readonly #key1: number;
  readonly #streamLow: number;
  readonly #streamHigh: number;
  readonly #depth: number;
  readonly #block = new Uint32Array(4);
  /** Index of the block in #block; -1: none yet. */
  #held = -1;
  #position = 0;

  /**
   * @param seed a safe integer, or a bigint, of which the low 64 bits are used
   * @param streams safe integers >= 0, up to 1,000 of them
   * @throws RangeError for any other number
   */
  constructor(seed: number | bigint, ...streams: number[]) {
    if (typeof seed === "number" && !Number.isSafeInteger(seed)) {
      throw new RangeError(`Philox: the seed must be a safe integer or a bigint, got ${seed}`);
    }
    // Two's complement words; >>> 0 is modulo 2^32 for any safe integer.
    let key0 = typeof seed === "number" ? seed >>> 0 : Number(BigInt.asUintN(32, seed));
    let key1 = typeof seed === "number" ? Math.floor(seed / TWO_32) >>> 0 : Number(BigInt.asUintN(32, seed >> 32n));
    for (const stream of streams) {
      if (!Number.isSafeInteger(stream) || stream < 0) {
        throw new RangeError(`Philox: a stream must be a safe integer >= 0, got ${stream}`);
      }
    }
    for (let i = 0; i + 1 < streams.length; i++) {
      const stream = streams[i];
      philoxBlock(this.#block, 0, stream >>> 0, Math.floor(stream / TWO_32), i, ABSORB, key0, key1);
      key0 = this.#block[0];
      key1 = this.#block[1];
    }
    const last = streams.length > 0 ? streams[streams.length - 1] : 0;
    this.#key0 = key0;
    this.#key1 = key1;
    this.#streamLow = last >>> 0;
    this.#streamHigh = Math.floor(last / TWO_32);
    this.#depth = streams.length;
  }

  /** Number of 32-bit words drawn so far; setting it seeks in the stream. */
  get position(): number {
    return this.#position;
  }

  set position(words: number) {
    if (!Number.isSafeInteger(words) || words < 0 || words >= 4 * TWO_32) {
      throw new RangeError(`Philox: a position must be an integer in [0, 2^34), got ${words}`);
    }
    this.#position = words;
  }

  /** The next word: an integer in [0, 2^32). */
  uint32(): number {
    const index = Math.floor(this.#position / 4);
    if (index !== this.#held) this.#fill(index);
    return this.#block[this.#position++ & 3];
  }

  /** The next number in [0, 1): a multiple of 2^-53, made of two words. */
  uniform(): number {
    const high = this.uint32() >>> 5;
    const low = this.uint32() >>> 6;
    return (high * 67108864 + low) / 9007199254740992;
  }

  /**
   * A uniform integer in [0, n), without modulo bias: draws that would cause it are rejected.
   *
   * @param n an integer in [1, 2^53)
   * @throws RangeError for any other n
   */
  below(n: number): number {
    if (!Number.isSafeInteger(n) || n < 1) {
      throw new RangeError(`Philox: below(n) needs an integer n in [1, 2^53), got ${n}`);
    }
    if (n <= TWO_32) {
      const limit = TWO_32 - (TWO_32 % n);
      for (;;) {
        const word = this.uint32();
        if (word < limit) return word % n;
      }
    }
    const limit = 9007199254740992 - (9007199254740992 % n);
    for (;;) {
      const value = (this.uint32() >>> 5) * 67108864 + (this.uint32() >>> 6);
      if (value < limit) return value % n;
    }
  }

  /** Fills `out` with the next `out.length` words, the same that uint32() would return one by one. */
  fillUint32(out: Uint32Array): Uint32Array {
    let i = 0;
    while (i < out.length && (this.#position & 3) !== 0) out[i++] = this.uint32();
    for (; i + 4 <= out.length; i += 4) {
      const index = Math.floor(this.#position / 4);
      philoxBlock(out, i, index, this.#streamLow, this.#streamHigh, this.#depth, this.#key0, this.#key1);
      this.#position += 4;
    }
    while (i < out.length) out[i++] = this.uint32();
    return out;
  }

  /** Fills `out` with the next numbers in [0, 1), the same that uniform() would return one by one. */
  fillUniform(out: Float64Array): Float64Array {
    const words = this.fillUint32(new Uint32Array(out.length * 2));
    for (let i = 0; i < out.length; i++) {
      out[i] = ((words[2 * i] >>> 5) * 67108864 + (words[2 * i + 1] >>> 6)) / 9007199254740992;
    }
    return out;
  }

  #fill(index: number): void {
    philoxBlock(this.#block, 0, index, this.#streamLow, this.#streamHigh, this.#depth, this.#key0, this.#key1);
    this.#held = index;
  }
}
