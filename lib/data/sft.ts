import { isUtf8 } from "node:buffer";
import { createHash } from "node:crypto";
import * as z from "zod";
import type { ChatMessage } from "../tokenizer/chat-template.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import { TokenizerError } from "../tokenizer/tokenizer-error.js";
import { Philox } from "../torch/philox.js";
import { packBestFit, packSequentially } from "./best-fit.js";
import type { Dataset, DatasetDescription, Sample } from "./dataset.js";
import { DataError } from "./errors.js";
import { listFiles } from "./file-walk.js";
import { readLines } from "./line-reader.js";
import { type EncodedSample, SftRows } from "./sft-rows.js";

/** Stream number of the generator that draws how many eos follow a sample. */
const EOS_STREAM = 0xe5;

const message = z.looseObject({ role: z.string(), content: z.string() });
const chatRecord = z.looseObject({ messages: z.array(message).min(1) });
const pairRecord = z
  .looseObject({
    prompt: z.string().optional(),
    instruction: z.string().optional(),
    answer: z.string().optional(),
    completion: z.string().optional(),
    response: z.string().optional(),
    output: z.string().optional(),
  })
  .transform((record, context) => {
    const prompt = record.prompt ?? record.instruction;
    const answer = record.answer ?? record.completion ?? record.response ?? record.output;
    if (prompt !== undefined && answer !== undefined) return { prompt, answer };
    context.addIssue("neither messages nor prompt (or instruction) with answer (completion, response, output)");
    return z.NEVER;
  });

/** What a model is taught to answer: a conversation, or a prompt and its answer without any template. */
export type SftRecord = { messages: ChatMessage[] } | { prompt: string; answer: string };

/** How answers become rows. */
export interface SftOptions {
  readonly tokenizer: Tokenizer;
  /** Tokens of a row. */
  readonly length: number;
  /** "best-fit": least padding; "sequential": in the order of the records. Default "best-fit". */
  readonly packing?: "best-fit" | "sequential";
  /** Whether conversations in one row may see each other. Default "isolated". */
  readonly documents?: "visible" | "isolated";
  /** How many eos are put after each sample at random, both ends included. Default 1 to 4 (paper, section 2). */
  readonly eos?: readonly [min: number, max: number];
  readonly seed?: number;
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
  /** Records without use, by reason, and the first three of each by "file#line: what". */
  skipped: Partial<Record<SftSkipReason, number>>;
  examples: Partial<Record<SftSkipReason, string[]>>;
}

/** Why a record is not used. */
export type SftSkipReason = "bad record" | "no answer" | "prompt too long" | "refused by the chat template";

/**
 * Supervised fine-tuning: rows of whole samples, padded at the end. `lossMask` is 1 on answers and on the eos after
 * them, so that a model learns to end within a block; prompts and padding are 0.
 */
export class SftDataset implements Dataset {
  readonly length: number;
  readonly numSamples: number;
  readonly hash: string;
  readonly summary: SftSummary;
  readonly #rows: SftRows;

  /**
   * @param records records with a name for messages about them, as readSftRecords gives
   * @throws DataError DATA_EMPTY if no record can be used (the message says why), DATA_OPTIONS; TokenizerError if the
   * tokenizer has no eos, or no chat template and a record needs one
   */
  constructor(records: Iterable<{ name: string; value: unknown }>, options: SftOptions) {
    const { tokenizer, length, packing = "best-fit", documents = "isolated" } = options;
    if (!Number.isSafeInteger(length) || length < 2) {
      throw new DataError("DATA_OPTIONS", `a row's length must be an integer >= 2, got ${length}`);
    }
    const [min, max] = options.eos ?? [1, 4];
    if (!(Number.isSafeInteger(min) && Number.isSafeInteger(max) && min >= 0 && min <= max)) {
      throw new DataError("DATA_OPTIONS", `eos must be [min, max] with 0 <= min <= max, got [${min}, ${max}]`);
    }
    this.length = length;
    const padId = tokenizer.padId ?? tokenizer.require("eos");
    this.summary = {
      records: 0,
      samples: 0,
      rows: 0,
      tokens: 0,
      answerTokens: 0,
      truncated: 0,
      skipped: {},
      examples: {},
    };
    const samples: EncodedSample[] = [];
    for (const { name, value } of records) {
      const sample = this.#encode(name, value, options);
      if (sample) samples.push(sample);
    }
    if (samples.length === 0) {
      const why = Object.entries(this.summary.skipped).map(([reason, count]) => {
        const names = this.summary.examples[reason as SftSkipReason] ?? [];
        return `${count} ${reason} (${names.join("; ")})`;
      });
      const found = `${this.summary.records} records${why.length > 0 ? `: ${why.join(", ")}` : ""}`;
      throw new DataError("DATA_EMPTY", `no sample to learn from in ${found}`);
    }
    const lengths = samples.map((sample) => sample.tokens.length);
    const rows = packing === "best-fit" ? packBestFit(lengths, length) : packSequentially(lengths, length);
    this.hash = hashOfSamples(samples, length);
    this.#rows = SftRows.pack(samples, rows, { length, isolated: documents === "isolated", padId, hash: this.hash });
    this.numSamples = rows.length;
    this.summary.rows = rows.length;
  }

  /**
   * Reads .jsonl files, or all of them in folders.
   *
   * @throws as the constructor does, and DataError DATA_NOT_FOUND
   */
  static load(paths: readonly string[], options: SftOptions): SftDataset {
    return new SftDataset(readSftRecords(paths), options);
  }

  /** Throws DataError DATA_RANGE if there is no such row. */
  sample(index: number): Sample {
    return this.#rows.sample(index);
  }

  describe(): DatasetDescription | undefined {
    if (this.sample !== SftDataset.prototype.sample) return undefined; // a subclass has samples of its own
    return { kind: "sft", parts: this.#rows.parts };
  }

  /** A record's sample, counted; undefined if it is of no use. */
  #encode(name: string, value: unknown, options: SftOptions): EncodedSample | undefined {
    const { summary } = this;
    const index = summary.records++;
    const record = parseRecord(value);
    if (typeof record === "string") return this.#skip("bad record", `${name}: ${record}`);
    let sample: EncodedSample;
    try {
      sample = encodeRecord(record, index, options);
    } catch (error) {
      // A template that is missing or broken is wrong for every record.
      if (!(error instanceof TokenizerError) || error.code !== "CHAT_TEMPLATE_FAILED") throw error;
      return this.#skip("refused by the chat template", `${name}: ${error.message}`);
    }
    if (!sample.mask.includes(1)) return this.#skip("no answer", name);
    if (sample.tokens.length > this.length) {
      sample = { tokens: sample.tokens.slice(0, this.length), mask: sample.mask.slice(0, this.length) };
      if (!sample.mask.includes(1)) return this.#skip("prompt too long", name);
      summary.truncated++;
    }
    summary.samples++;
    summary.tokens += sample.tokens.length;
    summary.answerTokens += sample.mask.reduce((sum, flag) => sum + flag, 0);
    return sample;
  }

  #skip(reason: SftSkipReason, example: string): undefined {
    const { skipped, examples } = this.summary;
    skipped[reason] = (skipped[reason] ?? 0) + 1;
    examples[reason] ??= [];
    if (examples[reason].length < 3) examples[reason].push(example);
  }
}

/**
 * The records of .jsonl files, named "file#line".
 *
 * @throws DataError DATA_NOT_FOUND, DATA_EMPTY if there is no .jsonl file
 */
export function* readSftRecords(paths: readonly string[]): Generator<{ name: string; value: unknown }> {
  const files = paths.flatMap((path) => listFiles({ path }, [".jsonl", ".ndjson"]).files);
  if (files.length === 0) throw new DataError("DATA_EMPTY", `no .jsonl file in ${paths.join(", ") || "no path"}`);
  for (const file of files) {
    let number = 0;
    try {
      for (const line of readLines(file.path)) {
        number++;
        const isBlank = line.every((byte) => byte <= 0x20);
        if (!isBlank) yield { name: `${file.name}#${number}`, value: parseLine(line) };
      }
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).syscall === undefined) throw cause;
      throw new DataError("DATA_NOT_FOUND", `cannot read ${file.path}: ${(cause as Error).message}`, { cause });
    }
  }
}

/** The line's JSON value; undefined, which no record is, if it is not UTF-8 or not JSON. */
function parseLine(line: Uint8Array): unknown {
  try {
    return isUtf8(line) ? JSON.parse(Buffer.from(line).toString("utf8")) : undefined;
  } catch {
    return undefined;
  }
}

/** The record, or what is wrong with it. */
function parseRecord(value: unknown): SftRecord | string {
  if (typeof value !== "object" || value === null) return "not a JSON object in UTF-8";
  const parsed = "messages" in value ? chatRecord.safeParse(value) : pairRecord.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  return `${issue.path.length > 0 ? `${issue.path.join(".")}: ` : ""}${issue.message}`;
}

/**
 * A record's ids and answer flags, with 1 to 4 eos at its end (paper, section 2) as a pure function of (seed, index).
 * The eos that a chat template ends with is one of them.
 */
function encodeRecord(record: SftRecord, index: number, options: SftOptions): EncodedSample {
  const { tokenizer, seed = 0 } = options;
  const tokens: number[] = [];
  const mask: number[] = [];
  const append = (ids: readonly number[], flag: number) => {
    for (const id of ids) {
      tokens.push(id);
      mask.push(flag);
    }
  };
  const eos = tokenizer.require("eos");
  if ("messages" in record) {
    for (const segment of tokenizer.chatTemplate.segments(record.messages)) {
      append(tokenizer.encode(segment.text, { addSpecialTokens: false }), segment.isAnswer ? 1 : 0);
    }
  } else {
    // Special tokens count: a prompt often is a conversation that was written out before, or a FIM prompt.
    append(tokenizer.encode(record.prompt), 0);
    append(tokenizer.encode(record.answer, { addSpecialTokens: false }), 1);
  }
  while (tokens.length > 0 && tokens[tokens.length - 1] === eos && mask[mask.length - 1] === 1) {
    tokens.pop();
    mask.pop();
  }
  const endsInAnswer = mask[mask.length - 1] === 1;
  const [min, max] = options.eos ?? [1, 4];
  const count = min + new Philox(seed, EOS_STREAM, index).below(max - min + 1);
  append(new Array<number>(count).fill(eos), endsInAnswer ? 1 : 0);
  return { tokens: Int32Array.from(tokens), mask: Uint8Array.from(mask) };
}

function hashOfSamples(samples: readonly EncodedSample[], length: number): string {
  const hash = createHash("sha256").update(`sft ${length}\n`);
  for (const { tokens, mask } of samples) hash.update(tokens).update(mask);
  return hash.digest("hex");
}
