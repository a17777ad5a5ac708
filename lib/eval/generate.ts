import type { EvalPrompt, Problem } from "./task.js";

/** One answer that is asked for. */
export interface GenerationRequest {
  problem: Problem;
  prompt: EvalPrompt;
  promptId: string;
  /** Strings that end the answer and are no part of it. */
  stop: readonly string[];
  maxTokens: number;
  seed: number;
}

export interface Generation {
  /** The answer, without the prompt. */
  text: string;
  /** "stop", "length", or "prompt-too-long" if the model's context has no room for an answer. */
  finishReason: string;
  tokens?: number;
}

/** What wrote the answers, for the results. */
export interface GeneratorInfo {
  kind: "model" | "server" | "canonical";
  /** The model's name. */
  name: string;
  /** SHA-256 over config, tokenizer and weights, in hexadecimal; of a server the fingerprint that it gives, or undefined. */
  hash?: string;
  /** Device, dtype and whatever else may change an answer. */
  details?: Readonly<Record<string, string | number | boolean | null>>;
}

export interface CompleteOptions {
  signal?: AbortSignal;
  /** Called once with each answer, in any order. */
  onDone(index: number, generation: Generation): void;
}

/** Something that writes answers: a model in this process, a server, or the authors' own solutions. */
export interface AnswerGenerator {
  info(signal?: AbortSignal): Promise<GeneratorInfo>;
  /**
   * Answers many requests.
   *
   * @throws EvaluationError EVAL_MODEL; the signal's reason
   */
  complete(requests: readonly GenerationRequest[], options: CompleteOptions): Promise<void>;
}

/** Answers with the authors' solutions. Run through the whole path it must reach 100 %: it checks machine, data and harness. */
export class CanonicalGenerator implements AnswerGenerator {
  async info(): Promise<GeneratorInfo> {
    return { kind: "canonical", name: "canonical" };
  }

  async complete(requests: readonly GenerationRequest[], { signal, onDone }: CompleteOptions): Promise<void> {
    requests.forEach(({ problem, promptId }, index) => {
      signal?.throwIfAborted();
      onDone(index, { text: problem.canonical?.(promptId) ?? "", finishReason: "stop" });
    });
  }
}

/**
 * Runs work on items, at most `limit` at a time. After the first failure no item begins, and those that have begun are waited
 * for.
 *
 * @param work gets the item's index, and the lane that it runs in, below `limit`
 */
export async function inParallel(
  count: number,
  limit: number,
  work: (index: number, lane: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  let failed = false;
  const run = async (_: unknown, lane: number) => {
    while (next < count && !failed) {
      try {
        await work(next++, lane);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const results = await Promise.allSettled(Array.from({ length: Math.min(limit, count) }, run));
  const rejected = results.find((result) => result.status === "rejected");
  if (rejected) throw rejected.reason;
}
