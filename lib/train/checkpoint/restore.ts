import type { LocalTensor } from "../../distributed/tensor-slice.js";
import { loadWeightSlices, readSlices } from "../../model/checkpoint-read.js";
import { CheckpointTensors } from "../../model/checkpoint-tensors.js";
import { readConfig } from "../../model/index.js";
import type { FoundCheckpoint } from "./store.js";

/**
 * Copies a checkpoint's weights into the slices of a model that are in this process. However many processes
 * wrote the checkpoint and however they had cut the tensors, only the parts that are wanted are read.
 *
 * @throws CheckpointError CHECKPOINT_MISSING, CHECKPOINT_CORRUPT, CHECKPOINT_MISMATCH
 */
export async function restoreWeights(checkpoint: FoundCheckpoint, weights: readonly LocalTensor[]): Promise<void> {
  const { path } = checkpoint;
  await loadWeightSlices(weights, path, readConfig(path).tieWordEmbeddings);
}

/**
 * Copies a checkpoint's optimiser state into the slices of it that are in this process. The caller tells its optimiser the
 * step, and copies master weights to the parameters.
 *
 * @returns how many steps the optimiser had taken; null if the checkpoint has no optimiser, and nothing was copied
 * @throws CheckpointError as {@link restoreWeights}
 */
export async function restoreOptimizer(
  checkpoint: FoundCheckpoint,
  state: readonly LocalTensor[],
): Promise<{ step: number } | null> {
  const { path, optimizerStep: step } = checkpoint;
  if (step === null) return null;
  using stored = new CheckpointTensors(path, ["optimizer"]);
  await readSlices(stored, "optimizer", state, {
    title: `${stored.folder} does not fit the optimiser`,
    wanted: "the optimiser has",
    isExtra: () => true,
  });
  return { step };
}
