import { checkSampleIndex, type Dataset, type Sample } from "./dataset.js";

/** A record as ids, its answers marked. */
export interface EncodedSample {
  readonly tokens: Int32Array;
  /** Per token: 1 in an answer. */
  readonly mask: Uint8Array;
}

/** What rows are made of. Any thread of this process may be given it: its memory is shared, not copied. */
export interface SftRowParts {
  readonly seqLen: number;
  readonly keepDocumentBoundaries: boolean;
  readonly padId: number;
  readonly hash: string;
  /** All samples' ids and answer flags, one sample after the other, and where each starts, then the end. */
  readonly tokens: Int32Array;
  readonly mask: Uint8Array;
  readonly starts: Float64Array;
  /** The samples of all rows, one row after the other, and where each row starts in that list, then the end. */
  readonly items: Uint32Array;
  readonly rowStarts: Float64Array;
}

/** Rows of whole samples, padded at the end. */
export class SftRows implements Dataset {
  readonly seqLen: number;
  readonly numSamples: number;
  readonly hash: string;
  readonly keepsDocumentBoundaries: boolean;
  readonly parts: SftRowParts;

  constructor(parts: SftRowParts) {
    this.seqLen = parts.seqLen;
    this.numSamples = parts.rowStarts.length - 1;
    this.hash = parts.hash;
    this.keepsDocumentBoundaries = parts.keepDocumentBoundaries;
    this.parts = parts;
  }

  /** @param rows the samples of each row, by their index */
  static pack(
    samples: readonly EncodedSample[],
    rows: readonly (readonly number[])[],
    options: Pick<SftRowParts, "seqLen" | "keepDocumentBoundaries" | "padId" | "hash">,
  ): SftRows {
    const starts = offsets(samples.map(({ tokens }) => tokens.length));
    const rowStarts = offsets(rows.map((row) => row.length));
    const tokens = new Int32Array(new SharedArrayBuffer(4 * starts[samples.length]));
    const mask = new Uint8Array(new SharedArrayBuffer(starts[samples.length]));
    const items = new Uint32Array(new SharedArrayBuffer(4 * rowStarts[rows.length]));
    for (const [i, sample] of samples.entries()) {
      tokens.set(sample.tokens, starts[i]);
      mask.set(sample.mask, starts[i]);
    }
    for (const [i, row] of rows.entries()) items.set(row, rowStarts[i]);
    return new SftRows({ ...options, tokens, mask, starts, items, rowStarts });
  }

  /** Throws DataError DATA_RANGE if there is no such row. */
  sample(index: number): Sample {
    checkSampleIndex(index, this.numSamples);
    const { parts, seqLen } = this;
    const tokens = new Int32Array(seqLen).fill(parts.padId);
    const lossMask = new Uint8Array(seqLen);
    const starts: number[] = [];
    let end = 0;
    for (const item of parts.items.subarray(parts.rowStarts[index], parts.rowStarts[index + 1])) {
      const [from, to] = [parts.starts[item], parts.starts[item + 1]];
      starts.push(end);
      tokens.set(parts.tokens.subarray(from, to), end);
      lossMask.set(parts.mask.subarray(from, to), end);
      end += to - from;
    }
    if (end < seqLen) starts.push(end); // padding is seen by no sample
    return parts.keepDocumentBoundaries ? { tokens, starts, lossMask } : { tokens, lossMask };
  }
}

/** Where things of these lengths start when they lie one after the other, then the end. */
function offsets(lengths: readonly number[]): Float64Array {
  const starts = new Float64Array(new SharedArrayBuffer(8 * (lengths.length + 1)));
  for (const [i, length] of lengths.entries()) starts[i + 1] = starts[i] + length;
  return starts;
}
