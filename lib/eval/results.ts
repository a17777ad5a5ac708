import { appendFileSync, existsSync, mkdirSync, readFileSync, renameSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import { problemsOf } from "../base/options.js";
import { EvaluationError } from "./errors.js";
import type { Estimate } from "./pass-at-k.js";
import type { Verdict } from "./python-session.js";

/** What a run is: everything that its answers depend on. Kept in run.json; a run is only continued with the same. */
export interface RunDescription {
  format: 1;
  /** Benchmark, data and prompt: `humaneval@b796127e/base`. */
  task: string;
  benchmark: string;
  prompt: string;
  data: { file: string; sha256: string };
  model: {
    kind: string;
    name: string;
    hash?: string;
    details?: Readonly<Record<string, string | number | boolean | null>>;
  };
  decoding: Readonly<Record<string, unknown>>;
  stop: readonly string[];
  seed: number;
  samples: number;
  limit?: number;
}

/** One answer, a line of samples.jsonl. */
export interface EvalSample {
  problem: string;
  sample: number;
  text: string;
  finishReason: string;
  tokens?: number;
}

/** One judged answer, a line of results.jsonl. */
export interface SampleResult extends Verdict {
  problem: string;
  sample: number;
}

/** A run's scores: summary.json. */
export interface EvalSummary extends RunDescription {
  versions: Readonly<Record<string, string>>;
  problems: number;
  /** pass@k over the problems that could be run, by k; empty if none could. */
  passAt: Readonly<Record<string, Estimate>>;
  /** pass@1 of tests that come in parts: of HumanEval+ the base inputs alone. */
  partsPassAt1: Readonly<Record<string, Estimate>>;
  /** Answers by what became of them, and those that the model had no room for. */
  counts: { passed: number; failed: number; timeout: number; notRun: number; promptTooLong: number };
  /** What tools were missing, if any. */
  notRun: readonly string[];
  isolated: boolean;
}

const sampleSchema = z.object({
  problem: z.string(),
  sample: z.number().int().min(0),
  text: z.string(),
  finishReason: z.string(),
  tokens: z.number().optional(),
});

const descriptionSchema = z.looseObject({
  format: z.literal(1),
  task: z.string(),
  benchmark: z.string(),
  prompt: z.string(),
  data: z.object({ file: z.string(), sha256: z.string() }),
  model: z.looseObject({ kind: z.string(), name: z.string() }),
  decoding: z.record(z.string(), z.unknown()),
  stop: z.array(z.string()),
  seed: z.number(),
  samples: z.number().int().min(1),
  limit: z.number().int().min(1).optional(),
});

/** A folder with the results of one run: run.json, samples.jsonl, results.jsonl, summary.json. */
export class ResultsFolder {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  /**
   * Begins a run here, or continues it.
   *
   * @returns the answers that are there, by problem and number
   * @throws EvaluationError EVAL_RUN_MISMATCH if the folder holds another run: the message names what differs
   */
  open(description: RunDescription): Map<string, EvalSample> {
    mkdirSync(this.path, { recursive: true });
    const file = join(this.path, "run.json");
    if (!existsSync(file)) {
      this.#write("run.json", `${JSON.stringify(description, null, 2)}\n`);
      return this.samples();
    }
    const before = this.description() as unknown as Record<string, unknown>;
    const now = JSON.parse(JSON.stringify(description)) as Record<string, unknown>;
    // The same file may lie elsewhere today.
    const plain = (run: Record<string, unknown>, key: string) =>
      JSON.stringify(key === "data" ? (run.data as { sha256: string }).sha256 : run[key]);
    const keys = [...new Set([...Object.keys(before), ...Object.keys(now)])];
    const differing = keys.filter((key) => plain(before, key) !== plain(now, key));
    if (differing.length === 0) return this.samples();
    const lines = differing.map((key) => `  ${key}: ${plain(before, key)} there, ${plain(now, key)} now`);
    throw new EvaluationError(
      "EVAL_RUN_MISMATCH",
      `${this.path} holds another run; choose another folder, or remove it:\n${lines.join("\n")}`,
    );
  }

  /** @throws EvaluationError EVAL_RESULTS if there is no run, or run.json is damaged */
  description(): RunDescription {
    const file = join(this.path, "run.json");
    let value: unknown;
    try {
      value = JSON.parse(readFileSync(file, "utf8"));
    } catch (cause) {
      const why = (cause as NodeJS.ErrnoException).code === "ENOENT" ? "there is no run" : (cause as Error).message;
      throw new EvaluationError("EVAL_RESULTS", `${file}: ${why}`, { cause });
    }
    const parsed = descriptionSchema.safeParse(value);
    if (parsed.success) return parsed.data as RunDescription;
    throw new EvaluationError("EVAL_RESULTS", problemsOf(file, descriptionSchema, value, parsed.error), {
      cause: parsed.error,
    });
  }

  /**
   * The answers, by {@link sampleKey}. A last line that was not written to its end is removed from the file.
   *
   * @throws EvaluationError EVAL_RESULTS for any other line that is no answer
   */
  samples(): Map<string, EvalSample> {
    const file = join(this.path, "samples.jsonl");
    const samples = new Map<string, EvalSample>();
    if (!existsSync(file)) return samples;
    const bytes = readFileSync(file);
    const whole = bytes.lastIndexOf(0x0a) + 1;
    if (whole < bytes.length) truncateSync(file, whole);
    const lines = bytes.toString("utf8", 0, whole).split("\n").slice(0, -1);
    for (const [i, line] of lines.entries()) {
      let value: unknown;
      try {
        value = JSON.parse(line);
      } catch (cause) {
        throw new EvaluationError("EVAL_RESULTS", `${file}:${i + 1}: ${(cause as Error).message}`, { cause });
      }
      const parsed = sampleSchema.safeParse(value);
      if (!parsed.success) {
        throw new EvaluationError("EVAL_RESULTS", problemsOf(`${file}:${i + 1}`, sampleSchema, value, parsed.error));
      }
      samples.set(sampleKey(parsed.data), parsed.data);
    }
    return samples;
  }

  /** Adds an answer at once, so that it is not lost when the run ends early. */
  append(sample: EvalSample): void {
    appendFileSync(join(this.path, "samples.jsonl"), `${JSON.stringify(sample)}\n`);
  }

  /** Writes what the answers were judged to be, in place of what was there. */
  writeScores(results: readonly SampleResult[], summary: EvalSummary): void {
    this.#write("results.jsonl", results.map((result) => `${JSON.stringify(result)}\n`).join(""));
    this.#write("summary.json", `${JSON.stringify(summary, null, 2)}\n`);
  }

  #write(name: string, text: string): void {
    const file = join(this.path, name);
    writeFileSync(`${file}.part`, text);
    renameSync(`${file}.part`, file);
  }
}

/** Names an answer within a run. */
export function sampleKey({ problem, sample }: { problem: string; sample: number }): string {
  return `${problem}#${sample}`;
}
