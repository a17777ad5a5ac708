import type { Batch } from "../model/objective.js";
import { DataError } from "./errors.js";
import type { TokenReaderParts } from "./token-reader.js";

/** One row of training data. */
export interface Sample {
  /** [seqLen] */
  readonly tokens: Int32Array;
  /** Start positions of the documents within the row, beginning with 0; absent: the row is one document. */
  readonly starts?: readonly number[];
  /** [seqLen]: 1 on tokens that contribute to the loss; absent: all tokens do. */
  readonly lossMask?: Uint8Array;
}

/** Rows of equal length, each a pure function of its index. Implement this interface for custom data. */
export interface Dataset {
  /** Tokens per sample. */
  readonly seqLen: number;
  readonly numSamples: number;
  sample(index: number): Sample;
  /** Whether samples with several documents have `starts`. Absent: unknown. */
  readonly keepsDocumentBoundaries?: boolean;
  /** Hash of the content. Resuming a run with a different hash is an error. */
  readonly hash?: string;
  /**
   * Describes the dataset so that {@link openDataset} can open it in another thread, which then prefetches batches.
   * Absent or undefined: batches are read in the training thread.
   */
  describe?(): DatasetDescription | undefined;
}

/**
 * How to open a dataset in another thread of this process. The library's own datasets share their memory; `args` are
 * copied by structuredClone(), which shares a SharedArrayBuffer.
 *
 * `module`: a module's export, which is a class or a function that returns the dataset or its promise. The thread
 * imports the module, so it should have no side effects and not be the curriculum file.
 */
export type DatasetDescription =
  | { readonly kind: "packed"; readonly source: TokenReaderParts; readonly options: PackingOptions }
  | { readonly kind: "sft"; readonly parts: SftRowParts }
  | {
      readonly kind: "module";
      /** Absolute path or URL, such as `import.meta.url` or `new URL("./mine.js", import.meta.url)`. */
      readonly module: URL | string;
      readonly export: string;
      readonly args?: readonly unknown[];
    };

/** How documents are packed into samples. */
export interface PackingOptions {
  /** Tokens per sample. */
  readonly seqLen: number;
  /**
   * Whether samples have document starts, so that an objective can prevent attention across documents. Default false: a
   * sample counts as one document (section 2 of the paper).
   */
  readonly keepDocumentBoundaries?: boolean;
  /**
   * Treatment of the tokens after the last full sample: "drop" them, or "pad" them with `padId`, which does not
   * contribute to the loss. Default "drop".
   */
  readonly tail?: "drop" | "pad";
  readonly padId?: number;
}

/** The data behind {@link SftRows}. It can be sent to any thread of this process: its memory is shared, not copied. */
export interface SftRowParts {
  readonly seqLen: number;
  readonly keepDocumentBoundaries: boolean;
  readonly padId: number;
  readonly hash: string;
  /** Ids and answer flags of all samples, concatenated, and the start of each sample followed by the end. */
  readonly tokens: Int32Array;
  readonly mask: Uint8Array;
  readonly starts: Float64Array;
  /** Sample indices of all rows, concatenated, and the start of each row in that list followed by its end. */
  readonly items: Uint32Array;
  readonly rowStarts: Float64Array;
}

/**
 * Collates samples into a batch.
 *
 * @param indices positions in the stream, one per sample
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

/** Checks a sample of a custom dataset: typed arrays would silently convert most invalid values. */
function checkedSample(sample: Sample, index: number, length: number): Sample {
  const fail = (what: string, code: "DATA_SAMPLE" | "DATA_RANGE" = "DATA_SAMPLE") =>
    new DataError(code, `sample ${index} ${what}`);
  const given: unknown = sample;
  if (typeof given !== "object" || given === null) throw fail(`is ${String(given)}, expected { tokens }`);
  if ("then" in given) throw fail("is a promise: sample() must be synchronous");
  const { tokens, starts, lossMask } = sample;
  const list: unknown = tokens;
  const isList = Array.isArray(list) || (ArrayBuffer.isView(list) && "length" in list);
  if (!isList) throw fail(`has tokens of type ${list === null ? "null" : typeof list}, expected an Int32Array`);
  if (tokens.length !== length)
    throw fail(`has ${tokens.length} tokens, but the dataset's seqLen is ${length}`, "DATA_RANGE");
  if (!(list instanceof Int32Array)) {
    const at = Array.from(list as ArrayLike<unknown>).findIndex((id) => !isInt32(id));
    if (at >= 0)
      throw fail(`has the token ${String((list as unknown[])[at])} at position ${at}, expected 32-bit integers`);
  }
  if (starts !== undefined) {
    const isRising = Array.isArray(starts) && starts[0] === 0 && starts.every((at, i) => i === 0 || at > starts[i - 1]);
    if (!isRising || !starts.every((at) => Number.isInteger(at) && at < length)) {
      throw fail(
        `has starts [${String(starts)}], expected increasing positions that start with 0 and are below ${length}`,
      );
    }
  }
  if (lossMask === undefined || lossMask?.length === length) return sample;
  const what = (lossMask as Uint8Array | null)?.length ?? "no";
  throw fail(`has a lossMask of ${what} entries, expected one per token (${length})`);
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
    throw new DataError("DATA_RANGE", `sample ${index} does not exist: the dataset has ${numSamples} samples`);
  }
}
