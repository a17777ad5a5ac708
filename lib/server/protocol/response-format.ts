import type { CommittedToken, DenoiseEvent, DoneEvent, Usage } from "../../engine/index.js";
import type { ApiUsage, DllmStep, DllmTotals } from "./responses.js";

/** What was generated of one choice. */
export interface Generated {
  index: number;
  text: string;
  ids: number[];
  tokens: CommittedToken[];
  finishReason: DoneEvent["finishReason"];
  stopReason: string | number | undefined;
}

/** A piece of a stream. */
export interface Piece {
  index: number;
  text: string;
  ids: readonly number[];
  tokens: readonly CommittedToken[];
  done?: { finishReason: DoneEvent["finishReason"]; stopReason: string | number | undefined };
}

/** How an endpoint writes what was generated: /v1/completions and /v1/chat/completions differ in nothing else. */
export interface ResponseFormat {
  readonly id: string;
  /** What the stream of a choice begins with, if with anything: the role, the echoed prompt. */
  opening(index: number): object | undefined;
  /** The chunk of one piece; an empty piece is what a denoising pass is hung on. */
  chunk(piece: Piece): object;
  /** The last chunk, of the usage. */
  usageChunk(usage: ApiUsage): object;
  /** What the totals of the `dllm` object hold besides those of every request. */
  totals?(): object;
  response(choices: readonly Generated[], usage: ApiUsage): object;
}

/** OpenAI's names. A choice that was given up is cut off as by its length. */
export function finishReasonName(reason: DoneEvent["finishReason"]): "stop" | "length" {
  return reason === "stop" ? "stop" : "length";
}

/** Of what every chunk and response has. */
export interface Head {
  id: string;
  created: number;
  model: string;
  system_fingerprint: string;
}

export function dllmStep(index: number, event: DenoiseEvent): DllmStep {
  const { block, step, start, end, masksLeft, committed, remasked } = event;
  return {
    index,
    block,
    step,
    start,
    end,
    masks_left: masksLeft,
    committed: committed.map(({ position, id, text, logprob, topLogprobs }) => ({
      position,
      id,
      text,
      logprob: finite(logprob),
      ...(topLogprobs && {
        top_logprobs: topLogprobs.map((each) => ({ ...each, logprob: finite(each.logprob) })),
      }),
    })),
    ...(remasked && remasked.length > 0 && { remasked }),
  };
}

/** JSON has no infinity: what has no probability at all gets vLLM's -9999. */
export function finite(logprob: number): number {
  return Number.isFinite(logprob) ? logprob : -9999;
}

/** Adds up what choices used. A prompt counts once, whatever n is. */
export class UsageSum {
  readonly #prompts = new Map<number, { tokens: number; cached: number }>();
  readonly #generated = new Map<number, number>();
  #forwards = 0;
  #steps = 0;

  prompt(prompt: number, tokens: number, cached: number): void {
    if (!this.#prompts.has(prompt)) this.#prompts.set(prompt, { tokens, cached });
  }

  generated(choice: number, tokens: number): void {
    this.#generated.set(choice, (this.#generated.get(choice) ?? 0) + tokens);
  }

  done(choice: number, usage: Usage): void {
    this.#generated.set(choice, usage.completionTokens);
    this.#forwards += usage.forwards;
    this.#steps += usage.denoisingSteps;
  }

  get completionTokens(): number {
    return [...this.#generated.values()].reduce((sum, each) => sum + each, 0);
  }

  toUsage(): ApiUsage {
    let prompt = 0;
    let cached = 0;
    for (const each of this.#prompts.values()) {
      prompt += each.tokens;
      cached += each.cached;
    }
    const completion = this.completionTokens;
    return {
      prompt_tokens: prompt,
      completion_tokens: completion,
      total_tokens: prompt + completion,
      prompt_tokens_details: { cached_tokens: cached },
    };
  }

  toDllm(): DllmTotals {
    return dllmTotals(this.completionTokens, this.#forwards, this.#steps);
  }
}

export function dllmTotals(tokens: number, forwards: number, steps: number): DllmTotals {
  const perForward = forwards > 0 ? Number((tokens / forwards).toFixed(4)) : 0;
  return { forwards, denoising_steps: steps, tokens_per_forward: perForward };
}
