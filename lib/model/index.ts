export { ARCHITECTURES, type Architecture, architectureSpec, type LayerCut } from "./architectures/index.js";
export {
  type AttentionPattern,
  type AttentionPlan,
  type CausalPlanOptions,
  causalPlan,
  documentPositions,
} from "./attention-plan.js";
export {
  type DecoderConfig,
  type DecoderConfigInput,
  decoderConfig,
  decoderConfigSchema,
  type RopeConfig,
} from "./config.js";
export { type ConfigJson, parseConfigJson, toConfigJson } from "./config-json.js";
export {
  Attention,
  type CrossEntropyOptions,
  countParameters,
  Decoder,
  DecoderLayer,
  type DecoderOptions,
  type Hidden,
  initializeDecoder,
  layerMatrices,
  MLP,
  type RotaryAngles,
} from "./decoder.js";
export { ModelConfigError, ModelError, type ModelErrorCode } from "./errors.js";
export {
  type CachedPlanOptions,
  cachedPlan,
  KeyValueCache,
  type KeyValueCacheOptions,
  type PrefillOptions,
  prefill,
  type Visibility,
} from "./kv-cache.js";
export type { Batch, Metric, Objective, ObjectiveContext, ObjectiveResult } from "./objective.js";
export { PRESET_NAMES, type PresetName, presetConfig } from "./presets.js";
export { inverseFrequencies, RotaryTables } from "./rotary.js";
