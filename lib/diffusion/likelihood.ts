import { setImmediate as nextTurn } from "node:timers/promises";
import { refuseRenamed } from "../base/renamed-options.js";
import { type AttentionPlan, causalPlan } from "../model/attention-plan.js";
import type { Decoder } from "../model/decoder.js";
import type { Batch } from "../model/objective.js";
import * as torch from "../torch/index.js";
import { blockDiffusionPlan } from "./attention-plan.js";
import { nextTokenTargets } from "./autoregressive.js";
import { resolveMaskId, uploadIntegers } from "./batch.js";
import { noisyThenClean, shiftedRows } from "./block-diffusion.js";
import { DiffusionError } from "./errors.js";
import { allSubsets, type MaskedPass, randomCounts, randomTimes } from "./likelihood-passes.js";

/** The likelihood of a text under a model, or a bound of it. */
export interface Likelihood {
  /** `nll` / ln 2 / `bytes`: comparable across tokenizers, and with a compressor's output. */
  bitsPerByte: number;
  /** Negative log-likelihood in nats (or its upper bound), summed over the targets. */
  nll: number;
  /** Targets scored: every token but the first of each document. */
  tokens: number;
  /** Number of bytes of the targets. */
  bytes: number;
  /** Standard error of bitsPerByte from the random masks; 0 without randomness. */
  standardError: number;
}

export interface LikelihoodOptions {
  /** Number of bytes of a token: 0 for special tokens, whose cost is still included. */
  byteLength: (id: number) => number;
  /** Default: the model's. */
  device?: string;
  /** Dtype of autocast for the forward passes. Default: no autocast. */
  autocast?: torch.DTypeLike;
  /** Number of rows whose logits are computed at a time. Default 1024. */
  headChunkSize?: number;
  signal?: AbortSignal;
}

export interface DiffusionBoundOptions extends LikelihoodOptions {
  /** Default 4. */
  blockSize?: number;
  /** Default: the model's. */
  maskId?: number;
  /** Whether the model was trained with the logit shift. Default false. */
  shift?: boolean;
  /**
   * - `count` (default): draws the number of masked tokens per block instead of t, uniformly over 1 .. B. The integral
   *   over t is then in closed form: the same bound without large weights, with less variance, and exact for B = 1.
   * - `time`: draws t as in training, low-discrepancy, with w = 1 / t.
   * - `exact`: all 2^B - 1 masks of a block; no randomness. For small B.
   */
  estimator?: "count" | "time" | "exact";
  /**
   * Monte Carlo samples of the masks of each batch; the standard error is estimated from them. Default 8; not used by
   * `exact`.
   */
  mcSamples?: number;
  /** Default 0. */
  seed?: number;
}

type Batches = Iterable<Batch> | AsyncIterable<Batch>;

/**
 * Exact likelihood of the autoregressive model, per byte. If a batch has document boundaries, its documents are
 * isolated; with a lossMask only answer tokens are scored.
 */
export async function arBitsPerByte(model: Decoder, batches: Batches, options: LikelihoodOptions): Promise<Likelihood> {
  refuseRenamed(options, ["headChunkSize", "mcSamples"], (text) => new DiffusionError("DIFFUSION_OPTIONS", text));
  const { device = model.device } = options;
  const total = new Tally();
  for await (const batch of batches) {
    const positions = nextTokenTargets(batch);
    total.addTargets(batch, positions, options);
    const rows = positions.map((i) => i - 1);
    const plan = (rowIds: torch.Tensor) =>
      causalPlan(batch.seqLen, { documents: batch.documents, rows: rowIds, rowIndices: rows, device });
    const nll = await score(model, batch.tokens, batch.seqLen, rows, targetsAt(batch, positions), plan, options);
    total.nll += nll.reduce((sum, x) => sum + x, 0);
  }
  return total.result();
}

/**
 * An upper bound of the negative log-likelihood under block diffusion, per byte: Eq. 4 with the unclipped linear
 * schedule, because the clip and the forced token of section 3.3 bias it (every unclipped schedule has the same bound).
 * The same tokens are scored as by {@link arBitsPerByte}: all but the first token of each document.
 *
 * @throws DiffusionError DIFFUSION_OPTIONS for fewer than two random passes, or `exact` with B > 12
 */
export async function diffusionBound(
  model: Decoder,
  batches: Batches,
  options: DiffusionBoundOptions,
): Promise<Likelihood> {
  refuseRenamed(options, ["headChunkSize", "mcSamples"], (text) => new DiffusionError("DIFFUSION_OPTIONS", text));
  const { blockSize = 4, shift = false, device = model.device } = options;
  const total = new Tally();
  for await (const batch of batches) {
    total.addTargets(batch, nextTokenTargets(batch), options);
    const passes = passesOver(batch, blockSize, resolveMaskId(model.config, options.maskId), options);
    const sums: Float64Array[] = [];
    for (const pass of passes) {
      const rows = shift ? shiftedRows(batch, pass.positions, blockSize) : pass.positions;
      const plan = (rowIds: torch.Tensor) =>
        blockDiffusionPlan(batch.seqLen, blockSize, {
          documents: batch.documents,
          rows: rowIds,
          rowIndices: rows,
          cleanQueries: shift,
          device,
        });
      const input = noisyThenClean(batch, pass.noisy);
      const targets = targetsAt(batch, pass.positions);
      const nll = await score(model, input, 2 * batch.seqLen, rows, targets, plan, options);
      sums.push(weightedSumsByRow(batch, pass, nll));
    }
    total.addPasses(sums, options.estimator === "exact");
  }
  return total.result();
}

/**
 * The masks of a batch that an estimator uses.
 *
 * @throws DiffusionError DIFFUSION_OPTIONS as {@link diffusionBound}
 */
export function passesOver(
  batch: Batch,
  blockSize: number,
  maskId: number,
  options: Pick<DiffusionBoundOptions, "estimator" | "mcSamples" | "seed">,
): Iterable<MaskedPass> {
  const { estimator = "count", mcSamples = 8, seed = 0 } = options;
  if (estimator === "exact") return allSubsets(batch, blockSize, maskId);
  if (!Number.isInteger(mcSamples) || mcSamples < 2) {
    throw new DiffusionError(
      "DIFFUSION_OPTIONS",
      `diffusionBound: mcSamples must be an integer >= 2, got ${mcSamples}`,
    );
  }
  return (estimator === "count" ? randomCounts : randomTimes)(batch, blockSize, maskId, { mcSamples, seed });
}

/** Cross-entropy of `targets` at the hidden states `rows` of ids [rows of the batch, width], float32 [n]. */
async function score(
  model: Decoder,
  ids: Int32Array,
  width: number,
  rows: Int32Array,
  targets: Int32Array,
  plan: (rows: torch.Tensor) => AttentionPlan,
  options: LikelihoodOptions,
): Promise<Float32Array> {
  const { device = model.device, headChunkSize = 1024, autocast, signal } = options;
  await nextTurn();
  signal?.throwIfAborted();
  if (rows.length === 0) return new Float32Array(0);
  const forward = () => {
    const [input, rowIds, targetIds] = uploadIntegers([ids, rows, targets], device);
    const hidden = model.forward(input.view([ids.length / width, width]), plan(rowIds));
    return model.crossEntropy(hidden, targetIds, { chunkSize: headChunkSize }).nll;
  };
  const kind = device.startsWith("cuda") ? "cuda" : "cpu";
  using nll = torch.scope(() =>
    torch.noGrad(() => (autocast ? torch.autocast({ device: kind, dtype: autocast }, forward) : forward())),
  );
  return (await nll.toTypedArrayAsync()) as Float32Array;
}

function targetsAt(batch: Batch, positions: Int32Array): Int32Array {
  return positions.map((i) => batch.tokens[i]);
}

function weightedSumsByRow(batch: Batch, pass: MaskedPass, nll: Float32Array): Float64Array {
  const sums = new Float64Array(batch.batch);
  pass.positions.forEach((at, k) => {
    sums[Math.floor(at / batch.seqLen)] += pass.weights[k] * nll[k];
  });
  return sums;
}

/** Accumulates targets, negative log-likelihood and the variance of the random masks. */
class Tally {
  nll = 0;
  #variance = 0;
  #tokens = 0;
  #bytes = 0;

  addTargets(batch: Batch, positions: Int32Array, options: LikelihoodOptions): void {
    this.#tokens += positions.length;
    for (const i of positions) this.#bytes += options.byteLength(batch.tokens[i]);
  }

  /** @param sums per pass, the weighted sum of each row */
  addPasses(sums: readonly Float64Array[], exhaustive: boolean): void {
    const rows = sums[0]?.length ?? 0;
    for (let row = 0; row < rows; row++) {
      const sum = sums.reduce((total, pass) => total + pass[row], 0);
      if (exhaustive) {
        this.nll += sum;
        continue;
      }
      const mean = sum / sums.length;
      const squares = sums.reduce((total, pass) => total + (pass[row] - mean) ** 2, 0);
      this.nll += mean;
      this.#variance += squares / (sums.length - 1) / sums.length;
    }
  }

  result(): Likelihood {
    const bits = 1 / Math.LN2 / this.#bytes;
    return {
      bitsPerByte: this.nll * bits,
      nll: this.nll,
      tokens: this.#tokens,
      bytes: this.#bytes,
      standardError: Math.sqrt(this.#variance) * bits,
    };
  }
}
