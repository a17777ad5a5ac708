/**
 * Checkpoints: reading and writing models in Hugging Face layout, and checkpoints of training runs, from any number of
 * processes.
 */
export type { LocalTensor, TensorSlice } from "../distributed/tensor-slice.js";
export type { ShardReport } from "./commit.js";
export type { CheckpointContent, CheckpointWorld } from "./content.js";
export { CheckpointError, type CheckpointErrorCode } from "./errors.js";
export { type ExportOptions, exportCheckpoint } from "./export.js";
export { weightName } from "./layout.js";
export { PendingCheckpoint } from "./pending.js";
export { loadOptimizerSlices, loadWeightSlices, loadWeights, readConfig } from "./read.js";
export { type FromConfigOptions, type FromPretrainedOptions, StableDiffCoder } from "./stable-diffcoder.js";
export { replaceFolder, stagedFolder } from "./staging.js";
export {
  CheckpointStore,
  type FoundCheckpoint,
  holdsRun,
  listCheckpoints,
  readCheckpoint,
  type UnreadableCheckpoint,
} from "./store.js";
export { newProgress, type Progress, type RunFingerprint } from "./trainer-file.js";
export { type SaveCheckpointOptions, saveCheckpoint, writeCheckpoint } from "./write.js";
