export { AdamW, type AdamWOptions } from "./adamw.js";
export { checkpoint } from "./checkpoint.js";
export { CombinedOptimizer, type OptimizerPart } from "./combined-optimizer.js";
export { NnError, type NnErrorCode, type ShapeMismatch, StateDictError } from "./errors.js";
export * as functional from "./functional.js";
export { clipGradNorm, gradNorm, scaleGradients } from "./gradients.js";
export * as init from "./init.js";
export { Embedding, type LayerOptions, Linear, RMSNorm } from "./layers.js";
export { type FactoryOptions, Module, parameter, type StateDict, wrapForward } from "./module.js";
export { Muon, type MuonOptions } from "./muon.js";
export {
  BucketedOptimizer,
  decayGroups,
  type Optimizer,
  type OptimizerState,
  type ParameterGroup,
  type UpdateSlice,
} from "./optimizer.js";
export {
  chain,
  constant,
  cosineDecay,
  type DecayShape,
  type Duration,
  decayShare,
  decayTo,
  durationSteps,
  type Schedule,
  type ScheduleConfig,
  type ScheduleContext,
  scaled,
  scheduleFrom,
  scheduleSchema,
  warmupStable,
  warmupStableDecay,
} from "./schedule.js";
export { SGD, type SGDOptions } from "./sgd.js";
