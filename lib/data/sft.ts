import { createHash } from "node:crypto";
import { refuseRenamed } from "../base/renamed-options.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import { TokenizerError } from "../tokenizer/tokenizer-error.js";
import type { Dataset, DatasetDescription, Sample } from "./dataset.js";
import { DataError } from "./errors.js";
import { type NamedRecord, readRecords } from "./record-files.js";
import { encodeSftRecord, type SftEncodeOptions, unwrittenFields } from "./sft-encode.js";
import { RecordError } from "./sft-messages.js";
import { type ParsedRecord, parseSftRecord } from "./sft-record.js";
import { type EncodedSample, packBestFit, packSequentially, SftRows } from "./sft-rows.js";

/** How answers become rows. */
export interface SftOptions {
  readonly tokenizer: Tokenizer;
  /** Tokens of a row. */
  readonly seqLen: number;
  /** "best-fit": least padding; "sequential": in the order of the records. Default "best-fit". */
  readonly packing?: "best-fit" | "sequential";
  /** Whether rows say where their conversations start, so that they do not attend to each other. Default true. */
  readonly keepDocumentBoundaries?: boolean;
  /** How many eos are put after each sample at random, both ends included. Default 1 to 4 (paper, section 2). */
  readonly eos?: readonly [min: number, max: number];
  readonly seed?: number;
  /** Fields of records that are left out as if they were not there. */
  readonly ignore?: readonly string[];
}

/**
 * Supervised fine-tuning: rows of whole samples, padded at the end. `lossMask` is 1 on answers and on the eos after
 * them, so that a model learns to end within a block; prompts and padding are 0.
 */
export class SftDataset implements Dataset {
  readonly seqLen: number;
  readonly numSamples: number;
  readonly hash: string;
  readonly keepsDocumentBoundaries: boolean;
  readonly summary: SftSummary;
  readonly #rows: SftRows;

  /**
   * @param records records with a name for messages about them, as readSftRecords gives
   * @throws DataError DATA_EMPTY if no record can be used (the message says why), DATA_FORMAT for a record that is of
   * another kind or would lose text, DATA_OPTIONS; TokenizerError if the tokenizer has no eos, or no chat template and a
   * record needs one
   */
  constructor(records: Iterable<NamedRecord> | SftSampler, options: SftOptions) {
    refuseRenamed(options, ["seqLen", "keepDocumentBoundaries"], (text) => new DataError("DATA_OPTIONS", text));
    const { tokenizer, seqLen, packing = "best-fit", keepDocumentBoundaries = true } = options;
    const sampler = records instanceof SftSampler ? records : newSampler(options);
    if (!(records instanceof SftSampler)) for (const record of records) sampler.add(record);
    this.seqLen = seqLen;
    this.keepsDocumentBoundaries = keepDocumentBoundaries;
    this.summary = sampler.summary;
    const { samples } = sampler;
    const padId = tokenizer.padId ?? tokenizer.require("eos");
    if (samples.length === 0) {
      const why = Object.entries(this.summary.skipped).map(([reason, count]) => {
        const names = this.summary.examples[reason as SftSkipReason] ?? [];
        return `${count} ${reason} (${names.join("; ")})`;
      });
      const found = `${this.summary.records} records${why.length > 0 ? `: ${why.join(", ")}` : ""}`;
      throw new DataError("DATA_EMPTY", `no sample to learn from in ${found}`);
    }
    const lengths = samples.map((sample) => sample.tokens.length);
    const rows = packing === "best-fit" ? packBestFit(lengths, seqLen) : packSequentially(lengths, seqLen);
    this.hash = hashOfSamples(samples, seqLen);
    this.#rows = SftRows.pack(samples, rows, { seqLen, keepDocumentBoundaries, padId, hash: this.hash });
    this.numSamples = rows.length;
    this.summary.rows = rows.length;
  }

  /**
   * Reads files of records, see {@link readSftRecords}.
   *
   * @throws as the constructor and readSftRecords do
   */
  static async load(paths: readonly string[], options: SftOptions): Promise<SftDataset> {
    const sampler = newSampler(options);
    for await (const record of readSftRecords(paths)) sampler.add(record);
    return new SftDataset(sampler, options);
  }

  /** Throws DataError DATA_RANGE if there is no such row. */
  sample(index: number): Sample {
    return this.#rows.sample(index);
  }

  describe(): DatasetDescription | undefined {
    if (this.sample !== SftDataset.prototype.sample) return undefined; // a subclass has samples of its own
    return { kind: "sft", parts: this.#rows.parts };
  }
}

/**
 * The records of files, or of all files of records in folders, by readRecords.
 *
 * @throws DataError DATA_NOT_FOUND, DATA_EMPTY if a folder holds no such file, DATA_FILE, DATA_FORMAT
 */
export function readSftRecords(paths: readonly string[]): AsyncGenerator<NamedRecord, void, void> {
  return readRecords(paths);
}

/** @throws DataError DATA_OPTIONS */
function newSampler({ tokenizer, seqLen, eos: [min, max] = [1, 4], seed = 0, ignore }: SftOptions): SftSampler {
  if (!Number.isSafeInteger(seqLen) || seqLen < 2) {
    throw new DataError("DATA_OPTIONS", `seqLen must be an integer >= 2, got ${seqLen}`);
  }
  if (!(Number.isSafeInteger(min) && Number.isSafeInteger(max) && min >= 0 && min <= max)) {
    throw new DataError("DATA_OPTIONS", `eos must be [min, max] with 0 <= min <= max, got [${min}, ${max}]`);
  }
  return new SftSampler({ tokenizer, seqLen, eos: [min, max], seed, ignore });
}

function hashOfSamples(samples: readonly EncodedSample[], length: number): string {
  const hash = createHash("sha256").update(`sft ${length}\n`);
  for (const { tokens, mask } of samples) hash.update(tokens).update(mask);
  return hash.digest("hex");
}

/** What became of the records. */
export interface SftSummary {
  records: number;
  samples: number;
  rows: number;
  tokens: number;
  answerTokens: number;
  /** Samples longer than a row: their end is cut off. */
  truncated: number;
  /** Fields that are in no sample, with the number of records that have them: of the record, or that no template writes. */
  unread: Record<string, number>;
  /** Records without use, by reason, and the first three of each by "file#line: what". */
  skipped: Partial<Record<SftSkipReason, number>>;
  examples: Partial<Record<SftSkipReason, string[]>>;
}

/** Why a record is not used. */
export type SftSkipReason = "bad record" | "no answer" | "prompt too long" | "refused by the chat template";

/** Makes samples of records and counts what becomes of them. */
export class SftSampler {
  readonly samples: EncodedSample[] = [];
  readonly summary: SftSummary = {
    records: 0,
    samples: 0,
    rows: 0,
    tokens: 0,
    answerTokens: 0,
    truncated: 0,
    unread: {},
    skipped: {},
    examples: {},
  };
  readonly #options: SftEncodeOptions & { readonly seqLen: number };
  readonly #ignore: ReadonlySet<string>;

  /** @param options.seqLen tokens that a sample may have */
  constructor(options: SftEncodeOptions & { readonly seqLen: number; readonly ignore?: readonly string[] }) {
    this.#options = options;
    this.#ignore = new Set(options.ignore);
  }

  /** @throws DataError DATA_FORMAT for a record that is of another kind or would lose text; TokenizerError */
  add({ name, value }: NamedRecord): void {
    this.samples.push(...this.#encode(name, value));
  }

  /** A record's samples, counted; none if it is of no use. */
  #encode(name: string, value: unknown): EncodedSample[] {
    const index = this.summary.records++;
    let samples: EncodedSample[];
    try {
      const parsed = parseSftRecord(value, this.#ignore);
      samples = encodeSftRecord(parsed.record, index, this.#options);
      this.#noteUnread(parsed, this.#options.tokenizer);
    } catch (error) {
      if (error instanceof RecordError) {
        if (error.kind === "form") throw new DataError("DATA_FORMAT", `${name}: ${error.message}`, { cause: error });
        return this.#skip("bad record", `${name}: ${error.message}`);
      }
      // A template that is missing or broken is wrong for every record.
      if (!(error instanceof TokenizerError) || error.code !== "CHAT_TEMPLATE_FAILED") throw error;
      return this.#skip("refused by the chat template", `${name}: ${error.message}`);
    }
    return samples.flatMap((sample) => this.#fit(name, sample) ?? []);
  }

  /** The sample as far as it fits into a row, counted; undefined if that is of no use. */
  #fit(name: string, given: EncodedSample): EncodedSample | undefined {
    const { summary } = this;
    const { seqLen } = this.#options;
    let sample = given;
    if (!sample.mask.includes(1)) {
      this.#skip("no answer", name);
      return undefined;
    }
    if (sample.tokens.length > seqLen) {
      sample = { tokens: sample.tokens.slice(0, seqLen), mask: sample.mask.slice(0, seqLen) };
      if (!sample.mask.includes(1)) {
        this.#skip("prompt too long", name);
        return undefined;
      }
      summary.truncated++;
    }
    summary.samples++;
    summary.tokens += sample.tokens.length;
    summary.answerTokens += sample.mask.reduce((sum, flag) => sum + flag, 0);
    return sample;
  }

  #noteUnread({ record, unread }: ParsedRecord, tokenizer: Tokenizer): void {
    const counts = this.summary.unread;
    const written = "messages" in record && tokenizer.hasChatTemplate;
    const fields = written ? unwrittenFields(record, tokenizer.chatTemplateFor(record.render)) : [];
    for (const field of [...unread, ...fields]) counts[field] = (counts[field] ?? 0) + 1;
  }

  #skip(reason: SftSkipReason, example: string): [] {
    const { skipped, examples } = this.summary;
    skipped[reason] = (skipped[reason] ?? 0) + 1;
    examples[reason] ??= [];
    if (examples[reason].length < 3) examples[reason].push(example);
    return [];
  }
}
