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

/** Something that writes answers: a model in this process, a server, or the authors' own solutions. */
export interface AnswerGenerator {
  info(signal?: AbortSignal): Promise<GeneratorInfo>;
  /**
   * Answers many requests.
   *
   * @param options.onDone called once with each answer, in any order
   * @throws EvaluationError EVAL_MODEL; the signal's reason
   */
  complete(
    requests: readonly GenerationRequest[],
    options: { signal?: AbortSignal; onDone: (index: number, generation: Generation) => void },
  ): Promise<void>;
}

/** Answers with the authors' solutions. Run through the whole path it must reach 100 %: it checks machine, data and harness. */
export class CanonicalGenerator implements AnswerGenerator {
  async info(): Promise<GeneratorInfo> {
    return { kind: "canonical", name: "canonical" };
  }

  async complete(
    requests: readonly GenerationRequest[],
    { signal, onDone }: { signal?: AbortSignal; onDone: (index: number, generation: Generation) => void },
  ): Promise<void> {
    requests.forEach(({ problem, promptId }, index) => {
      signal?.throwIfAborted();
      onDone(index, { text: problem.canonical?.(promptId) ?? "", finishReason: "stop" });
    });
  }
}

/** Runs work on items, at most `limit` at a time. The first failure ends the rest. */
export async function inParallel(count: number, limit: number, work: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  let failed = false;
  const lane = async () => {
    while (next < count && !failed) {
      try {
        await work(next++);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const results = await Promise.allSettled(Array.from({ length: Math.min(limit, count) }, lane));
  const rejected = results.find((result) => result.status === "rejected");
  if (rejected) throw rejected.reason;
}
