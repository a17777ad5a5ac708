import { setImmediate as nextTurn } from "node:timers/promises";
import type { Decoder } from "../model/decoder.js";
import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { resolveMaskId, resolveStopIds } from "./batch.js";
import type { CommitRule } from "./commit.js";
import { DiffusionError, parseOptions } from "./errors.js";
import {
  type BlockGenerationEvent,
  type BlockGenerationOptions,
  blockGenerationSchema,
  layOutSequence,
  type SamplerDoneEvent,
} from "./generation.js";
import { CachedForward, type SequenceForward, UncachedForward } from "./sequence-forward.js";
import { chooseTokens } from "./token-choice.js";

/**
 * Block-diffusion decoding as the published sampler does it: block after block, each begun fully masked and denoised in passes that
 * commit what the model is surest of. Blocks are aligned to position 0, so the first one generated holds the prompt's
 * remainder; the mask is block-causal over prompt and output alike. The last block is cut so that exactly `maxTokens`
 * tokens come out. Decoding ends as soon as a stop token and everything before it is committed.
 *
 * Same weights, prompt, options and seed give the same tokens, with or without cache. An abort ends the stream with a
 * "done" event that holds what was committed. Batch 1.
 *
 * @param prompt token ids, on the host
 * @throws DiffusionError DIFFUSION_OPTIONS, DIFFUSION_PROMPT, or DIFFUSION_LOGITS when the model's logits are NaN
 */
export async function* generateBlocks(
  model: Decoder,
  prompt: ArrayLike<number>,
  options: BlockGenerationOptions,
): AsyncGenerator<BlockGenerationEvent, SamplerDoneEvent> {
  const settings = parseOptions("generateBlocks", blockGenerationSchema, options);
  const { blockSize, maxTokens, shift, commit, signal } = settings;
  const maskId = resolveMaskId(model.config, settings.maskId);
  const stopTokenIds = resolveStopIds(model.config, settings.stopTokenIds);
  checkPrompt(prompt, maskId, shift);
  const sequence = layOutSequence(model.config, prompt, maxTokens, maskId);
  const from = prompt.length;
  const total = sequence.length;
  using forward: SequenceForward = settings.cache
    ? new CachedForward(model, { ...settings, maxLength: total, overlap: shift ? 1 : 0 })
    : new UncachedForward(model, blockSize);

  const done = (end: number, finishReason: SamplerDoneEvent["finishReason"], stopId?: number): SamplerDoneEvent => ({
    type: "done",
    ids: [...sequence.subarray(from, end)],
    finishReason,
    ...(stopId !== undefined && { stopId }),
    forwards: forward.forwards,
  });

  let block = 0;
  for (let start = Math.floor(from / blockSize) * blockSize; start < total; start += blockSize, block++) {
    const end = Math.min(start + blockSize, total);
    const firstNew = Math.max(start, from);
    let masked = range(firstNew, end);
    const initiallyMasked = masked.length;
    const confidence = new Float64Array(end - start).fill(1);
    for (let step = 0; masked.length > 0; step++) {
      await nextTurn();
      if (signal?.aborted) return yield* last(done(masked[0], "abort"));
      const rows = shift ? masked.map((position) => position - 1) : masked;
      using logits = forward.logits({ sequence, finished: start, end, rows });
      forbid(logits, maskId);
      const keys = masked.map((position) => ({ position, pass: step }));
      const choice = await chooseTokens(logits, keys, settings, { entropy: commit.usesEntropy });
      const { entropy } = choice;
      const chosen = commit.choose(choice.confidence, { step, initiallyMasked, entropy });
      const committed = checkCommits(commit, chosen, masked);
      masked.forEach((position, k) => {
        confidence[position - start] = choice.confidence[k];
      });
      for (const k of committed) sequence[masked[k]] = choice.ids[k];
      const positions = committed.map((k) => masked[k]);
      masked = masked.filter((position) => sequence[position] === maskId);
      yield {
        type: "denoise",
        ...{ block, step, start, end },
        canvas: sequence.slice(from, end),
        committed: positions,
        confidence: confidence.slice(),
        forwards: forward.forwards,
      };
      const known = masked[0] ?? end;
      const stop = range(firstNew, known).find((position) => stopTokenIds.has(sequence[position]));
      if (stop !== undefined) {
        const stopId = sequence[stop];
        const ids = [...sequence.subarray(firstNew, stop)];
        if (ids.length > 0) yield { type: "block", block, start: firstNew, ids, forwards: forward.forwards };
        return yield* last(done(stop, "stop", stopId));
      }
    }
    const ids = [...sequence.subarray(firstNew, end)];
    yield { type: "block", block, start: firstNew, ids, forwards: forward.forwards };
  }
  return yield* last(done(total, "length"));
}

/** Makes a token's probability zero in every row: the mask is not a token to commit. */
function forbid(logits: Tensor, id: number): void {
  torch.scope(() => void torch.noGrad(() => logits.narrow(1, id, 1).fill_(Number.NEGATIVE_INFINITY)));
}

/** Yields the last event and returns it too, for those who drive the generator by hand. */
async function* last(event: SamplerDoneEvent): AsyncGenerator<SamplerDoneEvent, SamplerDoneEvent> {
  yield event;
  return event;
}

function range(from: number, to: number): number[] {
  return Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);
}

function checkPrompt(prompt: ArrayLike<number>, maskId: number, shift: boolean): void {
  if (shift && prompt.length === 0) {
    throw new DiffusionError("DIFFUSION_PROMPT", "the prompt is empty: a shifted model predicts from the token before");
  }
  const at = Array.from(prompt).indexOf(maskId);
  if (at >= 0) throw new DiffusionError("DIFFUSION_PROMPT", `prompt token ${at} is the mask token ${maskId}`);
}

function checkCommits(rule: CommitRule, chosen: number[], masked: readonly number[]): number[] {
  const valid = chosen.every((k) => Number.isInteger(k) && k >= 0 && k < masked.length);
  if (!valid || chosen.length === 0 || new Set(chosen).size !== chosen.length) {
    throw new DiffusionError(
      "DIFFUSION_OPTIONS",
      `commit rule "${rule.name}" chose [${chosen}] of ${masked.length} masked tokens: it must choose at least one, each once`,
    );
  }
  return chosen;
}
