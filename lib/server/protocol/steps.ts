import type { DenoiseEvent } from "../../engine/index.js";

/** A token at the moment it was committed; `top_logprobs` where the request asks for log-probabilities. */
export interface DllmToken {
  position: number;
  id: number;
  text: string;
  logprob: number;
  top_logprobs?: { id: number; text: string; logprob: number }[];
}

/** One denoising pass, as clients see it (with `dllm.stream_steps`). */
export interface DllmStep {
  /** Number of the choice. */
  index: number;
  /** Of the generated block, from 0, and of the pass within it. */
  block: number;
  step: number;
  /** The block's first position and the one after its last, counted from the prompt's first token. */
  start: number;
  end: number;
  masks_left: number;
  committed: DllmToken[];
  /** Positions that are masked again (option `remask`). */
  remasked?: number[];
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
