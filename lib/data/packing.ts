import { checkSampleIndex, type Dataset, type DatasetDescription, type Sample } from "./dataset.js";
import { DataError } from "./errors.js";
import type { TokenReader } from "./token-reader.js";

/** How documents fill the samples. */
export interface PackingOptions {
  /** Tokens of a sample. */
  readonly length: number;
  /** Whether documents in one sample may see each other ("visible": the paper, section 2) or not. Default "visible". */
  readonly documents?: "visible" | "isolated";
  /**
   * What becomes of the tokens after the last full sample: "drop", or "pad" with `padId`, which gives no loss. Default
   * "drop".
   */
  readonly tail?: "drop" | "pad";
  readonly padId?: number;
}

/** What packing reads: tokens of documents, one after the other. A TokenFile is one. */
export type TokenSource = Pick<TokenReader, "numTokens" | "starts" | "hash" | "read" | "documentAt"> &
  Partial<Pick<TokenReader, "describe">>;

/**
 * Documents one after the other, cut into samples of exactly `length` tokens: sample i is tokens [i * length, (i + 1) *
 * length). A document that goes over the cut goes on in the next sample as a document of its own.
 */
export class PackedDataset implements Dataset {
  readonly length: number;
  readonly numSamples: number;
  readonly hash: string;
  readonly #source: TokenSource;
  readonly #options: PackingOptions;
  readonly #isolated: boolean;
  readonly #padId: number;

  /**
   * @throws DataError DATA_TOO_SMALL if the documents do not fill one sample, DATA_OPTIONS for a length below 2 or a
   * padded tail without a pad token
   */
  constructor(source: TokenSource, options: PackingOptions) {
    const { length, documents = "visible", tail = "drop", padId } = options;
    if (!Number.isSafeInteger(length) || length < 2) {
      throw new DataError("DATA_OPTIONS", `a sample's length must be an integer >= 2, got ${length}`);
    }
    if (tail === "pad" && padId === undefined) {
      throw new DataError("DATA_OPTIONS", 'tail: "pad" needs padId, the id of a padding token');
    }
    const count = source.numTokens / length;
    this.numSamples = tail === "pad" ? Math.ceil(count) : Math.floor(count);
    if (this.numSamples === 0) {
      const message = `${source.numTokens} tokens do not fill one sample of ${length}`;
      throw new DataError("DATA_TOO_SMALL", `${message}: give more text or a smaller length`);
    }
    this.length = length;
    this.hash = source.hash;
    this.#source = source;
    this.#options = { length, documents, tail, padId };
    this.#isolated = documents === "isolated";
    this.#padId = padId ?? 0;
  }

  /** Throws DataError DATA_RANGE if there is no such sample. */
  sample(index: number): Sample {
    checkSampleIndex(index, this.numSamples);
    const from = index * this.length;
    const to = Math.min(from + this.length, this.#source.numTokens);
    const found = this.#source.read(from, to);
    const starts = this.#isolated ? this.#startsWithin(from, to) : undefined;
    if (found.length === this.length) return starts ? { tokens: found, starts } : { tokens: found };
    const tokens = new Int32Array(this.length).fill(this.#padId);
    tokens.set(found);
    const lossMask = new Uint8Array(this.length).fill(1, 0, found.length);
    return { tokens, starts: [...(starts ?? [0]), found.length], lossMask };
  }

  describe(): DatasetDescription | undefined {
    const source = this.#source.describe?.();
    if (!source || this.sample !== PackedDataset.prototype.sample) return undefined; // a subclass has samples of its own
    return { kind: "packed", source, options: this.#options };
  }

  #startsWithin(from: number, to: number): number[] {
    const { starts } = this.#source;
    const found = [0];
    for (let i = this.#source.documentAt(from) + 1; i < starts.length - 1 && starts[i] < to; i++) {
      found.push(starts[i] - from);
    }
    return found;
  }
}
