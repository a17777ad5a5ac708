/**
 * Training: stages as plain values, the curriculum that runs them, resuming from checkpoints, and sinks for events.
 */

export type { Batch, Metric, Objective, ObjectiveContext, ObjectiveResult } from "../model/objective.js";
export { Curriculum, defaultSinks } from "./curriculum.js";
export {
  type BidirectionalStageOptions,
  type BlockDiffusionStageOptions,
  bidirectional,
  blockDiffusion,
  type CausalDiffusionStageOptions,
  causalDiffusion,
  supervised,
} from "./diffusion-stages.js";
export { TrainError, type TrainErrorCode } from "./errors.js";
export type {
  AbortedEvent,
  CheckpointEvent,
  EvaluationEvent,
  FailedEvent,
  MeshInfo,
  Position,
  RankStats,
  RunDoneEvent,
  RunInfo,
  RunStartEvent,
  SampleEvent,
  SkipCause,
  StageEndEvent,
  StageInfo,
  StageStartEvent,
  StepEvent,
  TrainEvent,
  TrainingSample,
  WarningEvent,
} from "./events.js";
export { type Interrupt, interruptSignal } from "./interrupt.js";
export {
  type CurriculumFile,
  type CurriculumFileContext,
  type LoadCurriculumOptions,
  loadCurriculum,
} from "./load-curriculum.js";
export { flopsPerToken, peakFlops } from "./meter.js";
export type { KnownMetrics, StepMetrics } from "./metrics.js";
export * from "./optimizer.js";
export { cpuHasBfloat16, type Precision, resolvePrecision } from "./precision.js";
export type { TrainingJob } from "./recipe.js";
export { buildRecipe, parseRecipe, type RecipeContext, type RecipeInput, readRecipe, recipeSchema } from "./recipe.js";
export type { RunOptions } from "./run-options.js";
export { jsonl } from "./sinks/jsonl.js";
export { report } from "./sinks/report.js";
export type { Sink } from "./sinks/sink.js";
export { tensorboard } from "./sinks/tensorboard.js";
export { type TerminalOptions, terminal } from "./sinks/terminal.js";
export type { WandbMode, WandbOptions, WandbRun } from "./sinks/wandb/options.js";
export { wandb } from "./sinks/wandb.js";
export {
  type AutoregressiveStageOptions,
  autoregressive,
  type Evaluate,
  type HookContext,
  type Sampling,
  type Stage,
  type StageData,
  type StageEnd,
  type StageOptions,
  stage,
} from "./stage.js";
