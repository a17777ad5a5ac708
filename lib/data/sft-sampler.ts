import type { Tokenizer } from "../tokenizer/tokenizer.js";
import { TokenizerError } from "../tokenizer/tokenizer-error.js";
import { DataError } from "./errors.js";
import type { NamedRecord } from "./record-files.js";
import { RecordError } from "./record-value.js";
import { encodeSftRecord, type SftEncodeOptions, unwrittenFields } from "./sft-encode.js";
import { type ParsedRecord, parseSftRecord } from "./sft-record.js";
import type { EncodedSample } from "./sft-rows.js";

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
