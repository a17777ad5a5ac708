import { checkSampleIndex, type Dataset, type Sample, type SftRowParts } from "./dataset.js";

/** A record encoded to ids, with its answers marked. */
export interface EncodedSample {
  readonly tokens: Int32Array;
  /** 1 on the tokens of answers. */
  readonly mask: Uint8Array;
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

  /** @param rows sample indices of each row */
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
    if (end < seqLen) starts.push(end); // no sample attends to the padding
    return parts.keepDocumentBoundaries ? { tokens, starts, lossMask } : { tokens, lossMask };
  }
}

/** Offsets of concatenated items with these lengths, followed by the end. */
function offsets(lengths: readonly number[]): Float64Array {
  const starts = new Float64Array(new SharedArrayBuffer(8 * (lengths.length + 1)));
  for (const [i, length] of lengths.entries()) starts[i + 1] = starts[i] + length;
  return starts;
}

/**
 * Packs items into bins by best fit, longest first: each goes into the fullest bin that still has room for it. The
 * result is deterministic. Bins are found through a bitmap of free space, without scanning them.
 *
 * @param lengths lengths of the items, each in [1, capacity]
 * @returns the item indices of each bin
 */
export function packBestFit(lengths: readonly number[], capacity: number): number[][] {
  const order = lengths.map((_, item) => item).sort((a, b) => lengths[b] - lengths[a] || a - b);
  const bins: number[][] = [];
  /** Bins by their free space. */
  const byRoom: number[][] = Array.from({ length: capacity + 1 }, () => []);
  const rooms = new Uint32Array(Math.ceil((capacity + 1) / 32));
  for (const item of order) {
    const length = lengths[item];
    let room = smallestRoom(rooms, length, capacity);
    let bin: number;
    if (room < 0) {
      bin = bins.push([]) - 1;
      room = capacity;
    } else {
      bin = byRoom[room].pop() as number;
      if (byRoom[room].length === 0) rooms[room >>> 5] &= ~(1 << (room & 31));
    }
    bins[bin].push(item);
    const left = room - length;
    byRoom[left].push(bin);
    rooms[left >>> 5] |= 1 << (left & 31);
  }
  return bins;
}

/** Packs items in order: a bin is closed when the next item does not fit. */
export function packSequentially(lengths: readonly number[], capacity: number): number[][] {
  const bins: number[][] = [];
  let room = 0;
  for (const [item, length] of lengths.entries()) {
    if (length > room) {
      bins.push([]);
      room = capacity;
    }
    bins[bins.length - 1].push(item);
    room -= length;
  }
  return bins;
}

/** The smallest set bit at or above `least`, -1 if there is none up to `capacity`. */
function smallestRoom(rooms: Uint32Array, least: number, capacity: number): number {
  for (let word = least >>> 5; word <= capacity >>> 5; word++) {
    let bits = rooms[word];
    if (word === least >>> 5) bits &= -1 << (least & 31);
    if (bits !== 0) return word * 32 + 31 - Math.clz32(bits & -bits);
  }
  return -1;
}
