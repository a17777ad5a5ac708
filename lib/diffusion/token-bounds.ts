import { setImmediate as nextTurn } from "node:timers/promises";
import type { Decoder } from "../model/decoder.js";
import type { Batch } from "../model/objective.js";
import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { blockDiffusionPlan } from "./attention-plan.js";
import { uploadIntegers } from "./batch.js";
import { noisyThenClean, shiftedRows } from "./block-diffusion.js";
import { passesOver } from "./likelihood.js";
import type { MaskedPass } from "./likelihood-passes.js";

/** Contribution of each token to the diffusion bound of a text. */
export interface TokenBounds {
  /**
   * Mean of ln p of each token over the orders in which its block can be unmasked; null for the first token, which is
   * not scored. Their sum is the lower bound of ln p(text), Eq. 4 with the integral in closed form.
   */
  logprobs: (number | null)[];
  /** The ids with the highest such means at each token, most likely first; only with the option `top`. */
  top?: ({ id: number; logprob: number }[] | null)[];
  /** Minus the sum of the logprobs: an upper bound of -ln p(text). */
  nll: number;
  /** Standard error of `nll` from the random masks; 0 if every mask was used. */
  standardError: number;
  /** Number of masks per block that were used. */
  mcSamples: number;
}

export interface TokenBoundsOptions {
  blockSize: number;
  maskId: number;
  /** Whether the model was trained with the logit shift. */
  shift?: boolean;
  /** Monte Carlo samples of the masks, at least 2; undefined: all 2^B - 1 masks of a block, for B up to 12. */
  mcSamples?: number;
  /** Seed of the random masks. */
  seed?: number;
  /** Number of most likely tokens to report at each position; default 0. */
  top?: number;
  signal?: AbortSignal;
}

/** Rows of logits that are computed at a time. */
const CHUNK = 256;
/** Maximum number of means of ln p in memory, over positions and vocabulary: 256 MiB in float64. */
const MOST_MEANS = 2 ** 25;

/**
 * The diffusion bound of one text, token by token. A mask of m of a block's n tokens has the weight 1 / (m C(n, m)).
 * The weights of all masks with a given token sum to 1, so its value is a mean over masks, and over all orders of
 * unmasking.
 *
 * @param tokens all tokens of one document
 * @throws DiffusionError DIFFUSION_OPTIONS for fewer than two random passes, or all masks with B > 12; the signal's
 *   reason if it aborts
 */
export async function diffusionTokenBounds(
  model: Decoder,
  tokens: Int32Array,
  options: TokenBoundsOptions,
): Promise<TokenBounds> {
  const { blockSize, maskId, mcSamples, seed, top = 0, signal } = options;
  const { length } = tokens;
  const batch: Batch = { indices: [0], tokens, batch: 1, seqLen: length };
  const logprobs = new Float64Array(length);
  const sums: number[] = [];
  const mostLikely: TokenBounds["top"] = [];
  const { vocabSize } = model.config;
  const span = top > 0 ? Math.max(1, Math.floor(MOST_MEANS / vocabSize)) : length;
  for (let from = 0; from < length; from += span) {
    const to = Math.min(length, from + span);
    const { device } = model;
    const means = top > 0 ? torch.zeros([to - from, vocabSize], { dtype: "float64", device }) : undefined;
    try {
      const estimator = mcSamples === undefined ? "exact" : "count";
      let number = 0;
      for (const pass of passesOver(batch, blockSize, maskId, { estimator, mcSamples, seed })) {
        await nextTurn();
        signal?.throwIfAborted();
        const values = scorePass(model, batch, within(pass, from, to), options, means && { means, from });
        for (const [at, value] of values) logprobs[at] += value;
        sums[number] = (sums[number] ?? 0) + values.reduce((sum, [, value]) => sum + value, 0);
        number++;
      }
      if (means) mostLikely.push(...highest(means, top, mcSamples ?? 1));
    } finally {
      means?.dispose();
    }
  }
  const count = mcSamples ?? 1;
  const nll = -logprobs.reduce((sum, value) => sum + value, 0) / count;
  return {
    logprobs: Array.from(logprobs, (value, i) => (i === 0 ? null : value / count)),
    ...(top > 0 && { top: mostLikely.map((each, i) => (i === 0 ? null : each)) }),
    nll,
    standardError: mcSamples === undefined ? 0 : standardError(sums, nll),
    mcSamples: sums.length,
  };
}

/** Restricts a pass to the masked tokens in [from, to); the mask itself is unchanged. */
function within({ noisy, positions, weights }: MaskedPass, from: number, to: number): MaskedPass {
  const mine = [...positions.keys()].filter((k) => positions[k] >= from && positions[k] < to);
  return {
    noisy,
    positions: Int32Array.from(mine, (k) => positions[k]),
    weights: Float64Array.from(mine, (k) => weights[k]),
  };
}

/** Weighted ln p of the masked tokens by position; those of all tokens are added to `into`. */
function scorePass(
  model: Decoder,
  batch: Batch,
  { noisy, positions, weights }: MaskedPass,
  { blockSize, shift = false }: TokenBoundsOptions,
  into: { means: Tensor; from: number } | undefined,
): [position: number, value: number][] {
  if (positions.length === 0) return [];
  const { device } = model;
  const rows = shift ? shiftedRows(batch, positions, blockSize) : positions;
  const targets = positions.map((at) => batch.tokens[at]);
  const values: [number, number][] = [];
  torch.scope(() =>
    torch.noGrad(() => {
      const [input, rowIds, targetIds, places] = uploadIntegers(
        [noisyThenClean(batch, noisy), rows, targets, positions.map((at) => at - (into?.from ?? 0))],
        device,
      );
      const seen = { rows: rowIds, rowIndices: rows, cleanQueries: shift, device };
      const plan = blockDiffusionPlan(batch.seqLen, blockSize, seen);
      const hidden = model.forward(input.view([1, 2 * batch.seqLen]), plan);
      for (let at = 0; at < positions.length; at += CHUNK) {
        const count = Math.min(CHUNK, positions.length - at);
        torch.scope(() => {
          const logits = model.logits(hidden.narrow(0, at, count));
          const logp = logits.to({ dtype: "float64" }).logSoftmax(1);
          const ids = targetIds.narrow(0, at, count).unsqueeze(1);
          const picked = logp.gather(1, ids).toTypedArray() as Float64Array;
          for (let i = 0; i < count; i++) values.push([positions[at + i], weights[at + i] * picked[i]]);
          if (!into) return;
          const factor = torch.tensor(weights.slice(at, at + count), { device }).unsqueeze(1);
          into.means.indexAdd_(0, places.narrow(0, at, count), logp.mul(factor));
        });
      }
    }),
  );
  return values;
}

function highest(means: Tensor, top: number, count: number): { id: number; logprob: number }[][] {
  const k = Math.min(top, means.size(1));
  const [values, ids] = torch.scope(() =>
    (means.topk(k, 1) as [Tensor, Tensor]).map((tensor) => tensor.toTypedArray()),
  );
  return Array.from({ length: means.size(0) }, (_, row) =>
    Array.from({ length: k }, (_, j) => ({
      id: Number(ids[row * k + j]),
      logprob: Number(values[row * k + j]) / count,
    })),
  );
}

/** Standard error of the mean of the passes' sums. */
function standardError(sums: readonly number[], nll: number): number {
  const squares = sums.reduce((sum, each) => sum + (each + nll) ** 2, 0);
  return Math.sqrt(squares / (sums.length - 1) / sums.length);
}
