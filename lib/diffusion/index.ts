/**
 * Masked diffusion over blocks and whole documents: corruption, noise schedules and warmup, training objectives, likelihood of a text, and
 * commit rules for denoising.
 */

export type { Batch, Metric, Objective, ObjectiveContext, ObjectiveResult } from "../model/objective.js";
export {
  type BidirectionalPlanOptions,
  type BlockDiffusionPlanOptions,
  bidirectionalPlan,
  blockDiffusionPlan,
} from "./attention-plan.js";
export { type AutoregressiveOptions, autoregressiveObjective, autoregressiveSchema } from "./autoregressive.js";
export {
  type BlockDiffusionOptions,
  type BlockDiffusionSettings,
  blockDiffusionObjective,
  blockDiffusionSchema,
  supervisedObjective,
} from "./block-diffusion.js";
export {
  type CommitConfig,
  type CommitRule,
  type CommitState,
  commitConfigSchema,
  commitFromConfig,
  confidenceFactor,
  confidenceThreshold,
  entropyBound,
  hybridRule,
  staticSchedule,
} from "./commit.js";
export { type Corruption, type CorruptionOptions, corrupt, type Granularity, type TimeSampling } from "./corruption.js";
export {
  type BidirectionalOptions,
  type BidirectionalSettings,
  bidirectionalObjective,
  bidirectionalSchema,
  type CausalDiffusionOptions,
  type CausalDiffusionSettings,
  causalDiffusionObjective,
  causalDiffusionSchema,
} from "./document-diffusion.js";
export { DiffusionError, type DiffusionErrorCode } from "./errors.js";
export {
  arBitsPerByte,
  type DiffusionBoundOptions,
  diffusionBound,
  type Likelihood,
  type LikelihoodOptions,
} from "./likelihood.js";
export {
  type BlockRules,
  type CustomNoiseOptions,
  clippedLinear,
  clipRate,
  cosineNoise,
  customNoise,
  linearNoise,
  type NoiseConfig,
  type NoiseSchedule,
  noiseConfigSchema,
  noiseFromConfig,
  noiseSchema,
} from "./noise.js";
export { diffusionTokenBounds, type TokenBounds, type TokenBoundsOptions } from "./token-bounds.js";
export {
  advanceWarmup,
  type MaskRatioWarmup,
  type MaskRatioWarmupOptions,
  maskRatioWarmup,
  maxMaskRatio,
  type WarmupContext,
  type WarmupState,
  warmupSchema,
} from "./warmup.js";
