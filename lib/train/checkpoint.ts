/** The checkpoints of a run: taking, writing, finding and restoring them. */
export type { LocalTensor, TensorSlice } from "../distributed/tensor-slice.js";
export type { ShardReport } from "./checkpoint/commit.js";
export type { CheckpointContent, CheckpointWorld } from "./checkpoint/content.js";
export { PendingCheckpoint } from "./checkpoint/pending.js";
export { checkFacts, newProgress, type Progress, type ResumeFacts } from "./checkpoint/progress.js";
export { restoreOptimizer, restoreWeights } from "./checkpoint/restore.js";
export {
  CheckpointStore,
  type FoundCheckpoint,
  holdsRun,
  listCheckpoints,
  readCheckpoint,
  shareOfFiles,
  type UnreadableCheckpoint,
} from "./checkpoint/store.js";
