import type { Batch } from "../model/objective.js";
import { DataError } from "./errors.js";
import type { TokenReaderParts } from "./token-reader.js";

/** One row of training data. */
export interface Sample {
  /** [seqLen] */
  readonly tokens: Int32Array;
  /** Where documents start within the row, 0 first; absent: all of it is one document. */
  readonly starts?: readonly number[];
  /** [seqLen]: 1 on tokens that give loss; absent: all do. */
  readonly lossMask?: Uint8Array;
}

/** Rows of one length, each a pure function of its index. A user's own data has this shape too. */
export interface Dataset {
  /** Tokens of every sample. */
  readonly seqLen: number;
  readonly numSamples: number;
  sample(index: number): Sample;
  /** Whether samples have `starts` where they hold several documents. Absent: unknown. */
  readonly keepsDocumentBoundaries?: boolean;
  /** Names the content: a run that is resumed with another one is told so. */
  readonly hash?: string;
  /**
   * What {@link openDataset} makes an equal dataset of in another thread, so that batches are read there, ahead of the
   * steps that need them. Absent or undefined: they are read in the thread that trains.
   */
  describe?(): DatasetDescription | undefined;
}

/**
 * How another thread of this process gets a dataset. Those of this library share their memory; `args` are copied as
 * structuredClone() does, in which a SharedArrayBuffer is shared.
 *
 * `module`: what a module exports by that name, a class or a function that makes the dataset, or its promise. It is
 * imported in the thread: it should do nothing else, and not be the file that describes a curriculum.
 */
export type DatasetDescription =
  | { readonly kind: "packed"; readonly source: TokenReaderParts; readonly options: PackingOptions }
  | { readonly kind: "sft"; readonly parts: SftRowParts }
  | {
      readonly kind: "module";
      /** Absolute, such as `import.meta.url` or `new URL("./mine.js", import.meta.url)`. */
      readonly module: URL | string;
      readonly export: string;
      readonly args?: readonly unknown[];
    };

/** How documents fill the samples. */
export interface PackingOptions {
  /** Tokens of a sample. */
  readonly seqLen: number;
  /**
   * Whether samples say where their documents start, so that an objective can keep them from attending to each other.
   * Default false: a sample counts as one document (section 2 of the paper).
   */
  readonly keepDocumentBoundaries?: boolean;
  /**
   * What becomes of the tokens after the last full sample: "drop", or "pad" with `padId`, which gives no loss. Default
   * "drop".
   */
  readonly tail?: "drop" | "pad";
  readonly padId?: number;
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

/**
 * Puts samples together as a batch.
 *
 * @param indices positions in the stream, one a sample
 */
export function collate(dataset: Dataset, samples: readonly number[], indices: readonly number[]): Batch {
  const { seqLen } = dataset;
  const rows = samples.map((index) => checkedSample(dataset.sample(index), index, seqLen));
  const tokens = new Int32Array(rows.length * seqLen);
  const documents: number[] = [];
  for (const [row, sample] of rows.entries()) {
    tokens.set(sample.tokens, row * seqLen);
    for (const start of sample.starts ?? [0]) documents.push(row * seqLen + start);
  }
  documents.push(rows.length * seqLen);
  const isolated = rows.some((sample) => sample.starts !== undefined);
  return {
    indices: [...indices],
    tokens,
    batch: rows.length,
    seqLen,
    ...(isolated && { documents }),
    ...(rows.some((sample) => sample.lossMask) && { lossMask: collateMasks(rows, seqLen) }),
    samples: [...samples],
  };
}

/** A user's dataset gives whatever it gives; typed arrays would take most of it and make other numbers of it. */
function checkedSample(sample: Sample, index: number, length: number): Sample {
  const fail = (what: string, code: "DATA_SAMPLE" | "DATA_RANGE" = "DATA_SAMPLE") =>
    new DataError(code, `sample ${index} ${what}`);
  const given: unknown = sample;
  if (typeof given !== "object" || given === null) throw fail(`is ${String(given)}, expected { tokens }`);
  if ("then" in given) throw fail("is a promise: sample() must give its result at once");
  const { tokens, starts, lossMask } = sample;
  const list: unknown = tokens;
  const isList = Array.isArray(list) || (ArrayBuffer.isView(list) && "length" in list);
  if (!isList) throw fail(`has tokens that are ${list === null ? "null" : typeof list}, expected an Int32Array`);
  if (tokens.length !== length)
    throw fail(`has ${tokens.length} tokens, the dataset's length is ${length}`, "DATA_RANGE");
  if (!(list instanceof Int32Array)) {
    const at = Array.from(list as ArrayLike<unknown>).findIndex((id) => !isInt32(id));
    if (at >= 0) throw fail(`has the token ${String((list as unknown[])[at])} at ${at}, expected integers of 32 bits`);
  }
  if (starts !== undefined) {
    const isRising = Array.isArray(starts) && starts[0] === 0 && starts.every((at, i) => i === 0 || at > starts[i - 1]);
    if (!isRising || !starts.every((at) => Number.isInteger(at) && at < length)) {
      throw fail(`has starts [${String(starts)}], expected rising positions from 0 to below ${length}`);
    }
  }
  if (lossMask === undefined || lossMask?.length === length) return sample;
  const what = (lossMask as Uint8Array | null)?.length ?? "no";
  throw fail(`has a lossMask of ${what} entries, expected one for each of ${length} tokens`);
}

function isInt32(id: unknown): boolean {
  return typeof id === "number" && id === (id | 0);
}

function collateMasks(rows: readonly Sample[], length: number): Uint8Array {
  const mask = new Uint8Array(rows.length * length).fill(1);
  for (const [row, sample] of rows.entries()) if (sample.lossMask) mask.set(sample.lossMask, row * length);
  return mask;
}

/** Throws DATA_RANGE unless `index` is a sample of the dataset. */
export function checkSampleIndex(index: number, numSamples: number): void {
  if (!Number.isSafeInteger(index) || index < 0 || index >= numSamples) {
    throw new DataError("DATA_RANGE", `sample ${index} asked of ${numSamples}`);
  }
}
