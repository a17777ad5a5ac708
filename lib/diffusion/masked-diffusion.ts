import * as z from "zod";
import type { AttentionPlan } from "../model/attention-plan.js";
import type { Batch, Metric, Objective, ObjectiveContext } from "../model/objective.js";
import type { Tensor } from "../torch/index.js";
import { batchOptions, paddedRows, resolveMaskId, uploadFloats, uploadIntegers } from "./batch.js";
import { type Corruption, type CorruptionOptions, corrupt } from "./corruption.js";
import { noiseSchema } from "./noise.js";
import { advanceWarmup, maxMaskRatio, type WarmupState, warmupSchema } from "./warmup.js";

/** Options of every objective of masked diffusion: how tokens are masked, and what a masked token contributes. */
export const maskingOptions = {
  noise: noiseSchema.prefault("clipped-linear").describe("noise schedule, u(t) and w(t)"),
  warmup: warmupSchema.optional().describe("mask-ratio warmup (section 3.2); default: none"),
  maskId: z.number().int().min(0).optional().describe("id of the mask token; default: the model's"),
  shift: z.boolean().default(false).describe("predict each token from the position before it, as in the AR stage"),
  weighted: z
    .boolean()
    .default(true)
    .describe("multiply the loss by w(t) (Eq. 4); otherwise it is not a bound of the likelihood"),
};

/** Options of every objective of masked diffusion: how the loss of a batch is computed. */
export const lossOptions = {
  timeSampling: z
    .enum(["independent", "antithetic", "low-discrepancy"])
    .default("independent")
    .describe(
      "how the times of a row are drawn: independent, antithetic or low-discrepancy; the last two have less variance",
    ),
  normalizer: z
    .enum(["tokens", "masked"])
    .default("tokens")
    .describe(
      "divisor of the summed loss: all tokens that may be masked (tokens, Eq. 4), or the masked tokens (masked)",
    ),
  ...batchOptions,
};

const commonSchema = z.strictObject({ ...maskingOptions, ...lossOptions });
type MaskedDiffusionSettings = z.output<typeof commonSchema>;

/** The rows of hidden states to compute, as a plan takes them. */
export interface SelectedRows {
  rows: Tensor;
  rowIndices: Int32Array;
  device: string;
}

/** The parts in which the objectives of masked diffusion differ. `batch` has no documents if they are mutually visible. */
export interface MaskedInput {
  /** The tokens that share a time, a clip and a forced token. */
  units(batch: Batch): Pick<CorruptionOptions, "blockSize" | "granularity">;
  /** Token ids of the decoder's input, row-major [batch, positions]. */
  ids(batch: Batch, noisy: Int32Array): Int32Array;
  /** The hidden states that predict the masked tokens, as flat indices for the plan. */
  rows(batch: Batch, positions: Int32Array): Int32Array;
  plan(batch: Batch, selected: SelectedRows): AttentionPlan;
}

/**
 * Masked diffusion (Eq. 4): masks tokens, runs the decoder once, and returns the weighted cross-entropy of the masked
 * tokens, summed. The normalizer counts the tokens that may be masked, or those that are.
 *
 * With `shift` a document's first token is never masked, because nothing predicts it.
 */
export function maskedDiffusion(settings: MaskedDiffusionSettings, parts: MaskedInput): Objective {
  return (model, batch, context) => {
    const { device, seed, stage } = context;
    const documents = settings.crossDocumentAttention ? undefined : batch.documents;
    const packed = { ...batch, documents };
    const ramp = rampAt(settings, context);
    const maskId = resolveMaskId(model.config, settings.maskId);
    const { timeSampling, noise, shift } = settings;
    const drawn = { ...parts.units(packed), noise, timeSampling, ...ramp, maskId, seed, stage };
    const corruption = corrupt(packed, { ...drawn, keepFirst: shift });

    const input = parts.ids(packed, corruption.noisy);
    const numRows = paddedRows(corruption.numMasked);
    const padded = [padTo(parts.rows(packed, corruption.positions), numRows), padTo(corruption.targets, numRows)];
    const [ids, rows, targets] = uploadIntegers([input, ...padded], device);
    const weights = uploadFloats(padTo(corruption.weights, numRows), device);

    const plan = parts.plan(packed, { rows, rowIndices: padded[0], device });
    const hidden = model.forward(ids.view([batch.batch, input.length / batch.batch]), plan);
    const { loss, nll } = model.crossEntropy(hidden, targets, {
      rowWeights: weights,
      chunkSize: settings.headChunkSize,
    });

    const normalizer = settings.normalizer === "tokens" ? corruption.numMaskable : corruption.numMasked;
    return { loss, normalizer, metrics: { u_max: ramp.uMax, ...corruptionMetrics(corruption, nll) } };
  };
}

/** Pads with zeros: index 0 refers to row 0, whose padding target has weight zero. */
function padTo<T extends Int32Array | Float32Array>(values: T, length: number): T {
  if (values.length === 0 || values.length === length) return values;
  const padded = new (values.constructor as new (length: number) => T)(length);
  padded.set(values);
  return padded;
}

/**
 * Advances the warmup to this step. During the warmup, weight, clip and forced token follow its own switches (Eq. 10).
 */
function rampAt(settings: MaskedDiffusionSettings, context: ObjectiveContext) {
  const { warmup, noise, weighted } = settings;
  const full = { uMax: 1, clip: noise.clip, fallback: noise.fallback, weighted };
  if (!warmup) return full;
  const state = advanceWarmup(warmup, context.state.warmup as WarmupState | undefined, context);
  context.state.warmup = state;
  if (state.progress >= warmup.steps) return full;
  return {
    uMax: maxMaskRatio(warmup, state.progress),
    clip: noise.clip && warmup.clip,
    fallback: noise.fallback && warmup.fallback,
    weighted: weighted && warmup.weighted,
  };
}

/** Metrics of a corruption: its counts as shares, and the unweighted cross-entropy per masked token. */
function corruptionMetrics(corruption: Corruption, nll: Tensor): Record<string, Metric> {
  const { numMasked, numMaskable, numBlocks, emptyBlocks, fallbackBlocks } = corruption;
  return {
    masked_share: { total: numMasked, count: numMaskable },
    empty_blocks: { total: emptyBlocks, count: numBlocks },
    fallback_blocks: { total: fallbackBlocks, count: numBlocks },
    masked_nll: { total: nll.narrow(0, 0, numMasked).sum(), count: numMasked },
  };
}
