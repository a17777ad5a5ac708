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

/** Options of {@link SftDataset}. */
export interface SftOptions {
  readonly tokenizer: Tokenizer;
  /** Tokens per row. */
  readonly seqLen: number;
  /** "best-fit": least padding; "sequential": in the order of the records. Default "best-fit". */
  readonly packing?: "best-fit" | "sequential";
  /** Whether rows have conversation starts, so that conversations do not attend to each other. Default true. */
  readonly keepDocumentBoundaries?: boolean;
  /** Range (inclusive) of the random number of eos after each sample. Default 1 to 4 (paper, section 2). */
  readonly eos?: readonly [min: number, max: number];
  readonly seed?: number;
  /** Fields of records to ignore. */
  readonly ignore?: readonly string[];
}

/**
 * Supervised fine-tuning: rows of whole samples, padded at the end. `lossMask` is 1 on answers and on the eos after
 * them, so that a model learns to end within a block; it is 0 on prompts and padding.
 */
export class SftDataset implements Dataset {
  readonly seqLen: number;
  readonly numSamples: number;
  readonly hash: string;
  readonly keepsDocumentBoundaries: boolean;
  readonly summary: SftSummary;
  readonly #rows: SftRows;

  /**
   * @param records records with their names for messages, as from readSftRecords
   * @throws DataError DATA_EMPTY if no record can be used (the message lists the reasons), DATA_FORMAT for a record of
   *   an unsupported kind or one that would lose text, DATA_OPTIONS; TokenizerError if the tokenizer has no eos, or has
   *   no chat template and a record needs one
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
      throw new DataError("DATA_EMPTY", `no sample to train on in ${found}`);
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
    if (this.sample !== SftDataset.prototype.sample) return undefined; // a subclass overrides sample()
    return { kind: "sft", parts: this.#rows.parts };
  }
}

/**
 * Yields the records of files, or of all files of records in folders, see readRecords.
 *
 * @throws DataError DATA_NOT_FOUND, DATA_EMPTY if a folder has no such file, DATA_FILE, DATA_FORMAT
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

/** Statistics of the records. */
export interface SftSummary {
  records: number;
  samples: number;
  rows: number;
  tokens: number;
  answerTokens: number;
  /** Number of samples that were longer than a row and were truncated. */
  truncated: number;
  /**
   * Fields that no sample contains, because neither the parser nor the template uses them, with the number of records
   * that have them.
   */
  unread: Record<string, number>;
  /** Number of skipped records by reason, and the first three of each as "file#line: problem". */
  skipped: Partial<Record<SftSkipReason, number>>;
  examples: Partial<Record<SftSkipReason, string[]>>;
}

/** Why a record is skipped. */
export type SftSkipReason = "bad record" | "no answer" | "prompt too long" | "refused by the chat template";

/** Encodes records to samples and counts the results. */
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

  /** @param options.seqLen maximum tokens per sample */
  constructor(options: SftEncodeOptions & { readonly seqLen: number; readonly ignore?: readonly string[] }) {
    this.#options = options;
    this.#ignore = new Set(options.ignore);
  }

  /** @throws DataError DATA_FORMAT for a record of an unsupported kind or one that would lose text; TokenizerError */
  add({ name, value }: NamedRecord): void {
    this.samples.push(...this.#encode(name, value));
  }

  /** Encodes and counts a record's samples; an empty list if the record is skipped. */
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
      // A missing or invalid template affects every record.
      if (!(error instanceof TokenizerError) || error.code !== "CHAT_TEMPLATE_FAILED") throw error;
      return this.#skip("refused by the chat template", `${name}: ${error.message}`);
    }
    return samples.flatMap((sample) => this.#fit(name, sample) ?? []);
  }

  /** Truncates and counts a sample; undefined if nothing to train on is left. */
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
