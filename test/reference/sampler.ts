import { type CommitConfig, type CommitRule, commitFromConfig, staticSchedule } from "../../lib/diffusion/index.js";
import type { Decoder } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import { CachedForward, type SequenceForward, UncachedForward } from "./sequence-forward.js";
import { sampleTokens, type TokenSampling } from "./token-sampling.js";

// The oracle of the engine: decoding of one sequence, written as plainly as the method allows.

export interface ReferenceOptions extends Partial<TokenSampling> {
  maxTokens: number;
  /** Default: none. */
  stopTokenIds?: number[];
  /** false (the default): every pass runs over the whole sequence. */
  cache?: boolean;
  /** Tokens of the prompt in one pass, with the cache. */
  prefillChunk?: number;
}

export interface ReferenceBlockOptions extends ReferenceOptions {
  /** Default 4. */
  blockSize?: number;
  /** Default: one token a pass. */
  commit?: CommitRule | CommitConfig;
  shift?: boolean;
}

export interface Decoded {
  /** Without the stop token. */
  ids: number[];
  /** The stop token that ended it. */
  stopId?: number;
  /** Positions that each pass committed, and the probabilities of their tokens. */
  commits: number[][];
  confidences: number[][];
  /** Calls of the model. */
  forwards: number;
}

/**
 * Block-diffusion decoding as the published sampler does it: block after block, each fully masked at first and denoised in
 * passes that commit what the rule chooses. Blocks are aligned to position 0, so the first one holds the prompt's
 * remainder. Decoding ends as soon as a stop token and everything before it is committed.
 */
export function decodeBlocks(model: Decoder, prompt: readonly number[], options: ReferenceBlockOptions): Decoded {
  const { blockSize = 4, maxTokens, shift = false, commit = staticSchedule(), stopTokenIds = [] } = options;
  const rule = commitFromConfig(commit);
  const maskId = model.config.maskTokenId ?? -1;
  const from = prompt.length;
  const total = from + maxTokens;
  const sequence = new Int32Array(total).fill(maskId);
  sequence.set(prompt);
  using forward = forwardOf(model, { ...options, blockSize, total, overlap: shift ? 1 : 0 });
  const decoded: Decoded = { ids: [], commits: [], confidences: [], forwards: 0 };
  const finish = (end: number): Decoded => {
    return { ...decoded, ids: [...sequence.subarray(from, end)], forwards: forward.forwards };
  };
  for (let start = Math.floor(from / blockSize) * blockSize; start < total; start += blockSize) {
    const end = Math.min(start + blockSize, total);
    const firstNew = Math.max(start, from);
    let masked = range(firstNew, end);
    const initiallyMasked = masked.length;
    for (let step = 0; masked.length > 0; step++) {
      const rows = shift ? masked.map((position) => position - 1) : masked;
      using logits = forward.logits({ sequence, finished: start, end, rows });
      torch.scope(() => void torch.noGrad(() => logits.narrow(1, maskId, 1).fill_(Number.NEGATIVE_INFINITY)));
      const keys = masked.map((position) => ({ position, pass: step }));
      const { ids, confidence, entropy } = sampleTokens(logits, keys, options, rule.usesEntropy);
      const chosen = rule.choose(confidence, { step, initiallyMasked, entropy });
      for (const k of chosen) sequence[masked[k]] = ids[k];
      decoded.commits.push(chosen.map((k) => masked[k]));
      decoded.confidences.push(chosen.map((k) => confidence[k]));
      masked = masked.filter((position) => sequence[position] === maskId);
      const known = range(firstNew, masked[0] ?? end);
      const stop = known.find((position) => stopTokenIds.includes(sequence[position]));
      if (stop !== undefined) return { ...finish(stop), stopId: sequence[stop] };
    }
  }
  return finish(total);
}

/** Left-to-right decoding: one token per pass, from the hidden state before it. */
export function decodeAutoregressive(model: Decoder, prompt: readonly number[], options: ReferenceOptions): Decoded {
  const { maxTokens, stopTokenIds = [] } = options;
  const total = prompt.length + maxTokens;
  const sequence = new Int32Array(total);
  sequence.set(prompt);
  using forward = forwardOf(model, { ...options, blockSize: 1, total, overlap: 0 });
  const decoded: Decoded = { ids: [], commits: [], confidences: [], forwards: 0 };
  for (let end = prompt.length; end < total; end++) {
    using logits = forward.logits({ sequence, finished: end, end, rows: [end - 1] });
    const { ids, confidence } = sampleTokens(logits, [{ position: end, pass: 0 }], options);
    decoded.forwards = forward.forwards;
    if (stopTokenIds.includes(ids[0])) return { ...decoded, stopId: ids[0] };
    sequence[end] = ids[0];
    decoded.ids.push(ids[0]);
    decoded.commits.push([end]);
    decoded.confidences.push([confidence[0]]);
  }
  return decoded;
}

function forwardOf(
  model: Decoder,
  options: ReferenceOptions & { blockSize: number; total: number; overlap: number },
): SequenceForward {
  const { cache = false, blockSize, total, overlap, prefillChunk = 512 } = options;
  if (!cache) return new UncachedForward(model, blockSize);
  return new CachedForward(model, { blockSize, maxLength: total, overlap, prefillChunk });
}

function range(from: number, to: number): number[] {
  return Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);
}
