import type { DenoiseEvent } from "../../engine/index.js";
import type { DllmStep } from "./responses.js";

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
