import type { Usage } from "../../engine/index.js";
import type { ApiUsage, DllmTotals } from "./responses.js";

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
