import { refuseRenamed } from "../base/renamed-options.js";
import {
  checkSampleIndex,
  type Dataset,
  type DatasetDescription,
  type PackingOptions,
  type Sample,
} from "./dataset.js";
import { DataError } from "./errors.js";
import type { TokenReader } from "./token-reader.js";

/** Source of a {@link PackedDataset}: the concatenated tokens of documents, such as a TokenFile. */
export type TokenSource = Pick<TokenReader, "numTokens" | "starts" | "hash" | "read" | "documentAt"> &
  Partial<Pick<TokenReader, "describe">>;

/**
 * Concatenated documents, split into samples of exactly `seqLen` tokens: sample i is tokens [i * seqLen, (i + 1) *
 * seqLen). A document that crosses a boundary continues in the next sample as a separate document.
 */
export class PackedDataset implements Dataset {
  readonly seqLen: number;
  readonly numSamples: number;
  readonly hash: string;
  readonly keepsDocumentBoundaries: boolean;
  readonly #source: TokenSource;
  readonly #options: PackingOptions;
  readonly #padId: number;

  /**
   * @throws DataError DATA_TOO_SMALL if the documents do not fill one sample, DATA_OPTIONS for a seqLen below 2 or a
   *   padded tail without a `padId`
   */
  constructor(source: TokenSource, options: PackingOptions) {
    refuseRenamed(options, ["seqLen", "keepDocumentBoundaries"], (text) => new DataError("DATA_OPTIONS", text));
    const { seqLen, keepDocumentBoundaries = false, tail = "drop", padId } = options;
    if (!Number.isSafeInteger(seqLen) || seqLen < 2) {
      throw new DataError("DATA_OPTIONS", `seqLen must be an integer >= 2, got ${seqLen}`);
    }
    if (tail === "pad" && padId === undefined) {
      throw new DataError("DATA_OPTIONS", 'tail: "pad" needs padId, the id of a padding token');
    }
    const count = source.numTokens / seqLen;
    this.numSamples = tail === "pad" ? Math.ceil(count) : Math.floor(count);
    if (this.numSamples === 0) {
      const message = `${source.numTokens} tokens do not fill one sample of ${seqLen}`;
      throw new DataError("DATA_TOO_SMALL", `${message}: provide more text or reduce seqLen`);
    }
    this.seqLen = seqLen;
    this.hash = source.hash;
    this.#source = source;
    this.#options = { seqLen, keepDocumentBoundaries, tail, padId };
    this.keepsDocumentBoundaries = keepDocumentBoundaries;
    this.#padId = padId ?? 0;
  }

  /** Throws DataError DATA_RANGE if there is no such sample. */
  sample(index: number): Sample {
    checkSampleIndex(index, this.numSamples);
    const from = index * this.seqLen;
    const to = Math.min(from + this.seqLen, this.#source.numTokens);
    const found = this.#source.read(from, to);
    const starts = this.keepsDocumentBoundaries ? this.#startsWithin(from, to) : undefined;
    if (found.length === this.seqLen) return starts ? { tokens: found, starts } : { tokens: found };
    const tokens = new Int32Array(this.seqLen).fill(this.#padId);
    tokens.set(found);
    const lossMask = new Uint8Array(this.seqLen).fill(1, 0, found.length);
    return { tokens, starts: [...(starts ?? [0]), found.length], lossMask };
  }

  describe(): DatasetDescription | undefined {
    const source = this.#source.describe?.();
    if (!source || this.sample !== PackedDataset.prototype.sample) return undefined; // a subclass overrides sample()
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
