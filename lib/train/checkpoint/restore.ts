import type { LocalTensor } from "../../distributed/tensor-slice.js";
import { wholeTensor } from "../../distributed/tensor-slice.js";
import { loadWeightSlices, readSlices } from "../../model/checkpoint-read.js";
import { CheckpointTensors } from "../../model/checkpoint-tensors.js";
import { type Decoder, loadWeights, readConfig } from "../../model/index.js";
import type { Optimizer } from "../../nn/index.js";
import * as torch from "../../torch/index.js";
import type { FoundCheckpoint } from "./store.js";

/**
 * Copies a checkpoint's weights into a model, or into the slices of it that are in this process. However many processes
 * wrote the checkpoint and however they had cut the tensors, only the parts that are wanted are read.
 *
 * @throws CheckpointError CHECKPOINT_MISSING, CHECKPOINT_CORRUPT, CHECKPOINT_MISMATCH
 */
export async function restoreWeights(
  checkpoint: FoundCheckpoint,
  weights: Decoder | readonly LocalTensor[],
): Promise<void> {
  const { path } = checkpoint;
  if (!isList(weights)) return loadWeights(weights, path);
  await loadWeightSlices(weights, path, readConfig(path).tieWordEmbeddings);
}

/**
 * Copies a checkpoint's optimiser state into an optimiser of the same kind, or into the slices of it that are in this
 * process. With slices the caller tells its optimiser the step, and copies master weights to the parameters.
 *
 * @returns how many steps the optimiser had taken; null if the checkpoint has no optimiser, and nothing was copied
 * @throws CheckpointError as {@link restoreWeights}, StateDictError when the state does not fit the optimiser
 */
export async function restoreOptimizer(
  checkpoint: FoundCheckpoint,
  optimizer: Optimizer | readonly LocalTensor[],
): Promise<{ step: number } | null> {
  const { path, optimizerStep: step } = checkpoint;
  if (step === null) return null;
  using stored = new CheckpointTensors(path, ["optimizer"]);
  if (isList(optimizer)) await readState(stored, optimizer);
  else await loadState(stored, optimizer, step);
  return { step };
}

async function readState(stored: CheckpointTensors, tensors: readonly LocalTensor[]): Promise<void> {
  await readSlices(stored, "optimizer", tensors, {
    title: `${stored.folder} does not fit the optimiser`,
    wanted: "the optimiser has",
    isExtra: () => true,
  });
}

/** Gives an optimiser views of the files where they hold whole tensors, and reads straight into its own otherwise. */
async function loadState(stored: CheckpointTensors, optimizer: Optimizer, step: number): Promise<void> {
  const saved = stored.tensors("optimizer");
  const own = optimizer.stateDict().tensors;
  const isSplit = [...saved.values()].some(({ pieces }) => pieces.length !== 1);
  const fits = Object.entries(own).every(([name, { shape }]) => saved.get(name)?.shape.join() === shape.join());
  if (isSplit && fits && Object.keys(own).length === saved.size) {
    await readState(
      stored,
      Object.entries(own).map(([name, tensor]) => wholeTensor(name, tensor)),
    );
    optimizer.loadStateDict({ step, tensors: own });
    return;
  }
  torch.scope(() => {
    const tensors = Object.fromEntries([...saved.keys()].map((name) => [name, stored.whole("optimizer", name)]));
    optimizer.loadStateDict({ step, tensors });
  });
}

function isList(value: object): value is readonly LocalTensor[] {
  return Array.isArray(value);
}
