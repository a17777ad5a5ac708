import { readdirSync } from "node:fs";
import { join } from "node:path";
import {
  type CheckpointContent,
  CheckpointStore,
  type FoundCheckpoint,
  loadOptimizerSlices,
  loadWeightSlices,
  newProgress,
  type PendingCheckpoint,
  readCheckpoint,
} from "../../lib/checkpoint/index.js";
import {
  type LocalTensor,
  type TensorSlice,
  viewOf,
  wholeSlice,
  wholeTensor,
} from "../../lib/distributed/tensor-slice.js";
import { Decoder, decoderConfig } from "../../lib/model/index.js";
import { AdamW } from "../../lib/nn/index.js";
import * as torch from "../../lib/torch/index.js";

// Two threads on a busy machine wait for each other longer than these models compute.
torch.setNumThreads(1);

const config = decoderConfig({
  vocabSize: 48,
  hiddenSize: 16,
  intermediateSize: 32,
  numLayers: 2,
  numHeads: 2,
  numKeyValueHeads: 1,
  maxPositionEmbeddings: 64,
  bosTokenId: 0,
  padTokenId: 1,
  eosTokenId: 2,
  maskTokenId: 5,
});

/** A decoder of a few kilobytes. */
export function smallModel(seed = 1): Decoder {
  using generator = new torch.Generator({ seed });
  return new Decoder(config, { generator });
}

/** A model and its optimiser. */
export interface Trained {
  model: Decoder;
  optimizer: AdamW;
}

/** A small model with an optimiser whose state is no zeros. */
export function makeTrained(seed = 1): Trained {
  const model = smallModel(seed);
  const optimizer = new AdamW(model.namedParameters());
  shake(optimizer, seed);
  optimizer.loadStateDict({ step: 7, tensors: optimizer.stateDict().tensors });
  return { model, optimizer };
}

/** Puts random numbers into an optimiser's state. */
export function shake(optimizer: AdamW, seed: number): void {
  using generator = new torch.Generator({ seed });
  torch.scope(() => {
    for (const tensor of Object.values(optimizer.stateDict().tensors)) {
      tensor.copy_(torch.randn(tensor.shape, { generator }));
    }
  });
}

function wholeTensors(named: Iterable<readonly [string, torch.Tensor]>): LocalTensor[] {
  return Array.from(named, ([name, tensor]) => wholeTensor(name, tensor));
}

function wholeState(optimizer: AdamW): NonNullable<CheckpointContent["optimizer"]> {
  const { step, tensors } = optimizer.stateDict();
  return { step, tensors: wholeTensors(Object.entries(tensors)) };
}

/** Copies a checkpoint into a model that is whole, and into its optimiser where one is given. */
export async function restore(found: FoundCheckpoint, into: { model: Decoder; optimizer?: AdamW }): Promise<void> {
  await loadWeightSlices(wholeTensors(into.model.namedParameters()), found.path);
  if (!into.optimizer) return;
  if (found.optimizerStep === null) return;
  const { tensors } = into.optimizer.stateDict();
  await loadOptimizerSlices(wholeTensors(Object.entries(tensors)), found.path);
  into.optimizer.loadStateDict({ step: found.optimizerStep, tensors });
}

/** What a run at a step would save, by default of a process that is alone. */
export function contentOf(
  { model, optimizer }: Trained,
  globalStep = 1,
  parts: Partial<CheckpointContent> = {},
): CheckpointContent {
  return {
    model,
    weights: wholeTensors(model.namedParameters()),
    optimizer: parts.optimizer === undefined ? wholeState(optimizer) : parts.optimizer,
    progress: { ...newProgress(1), globalStep, step: globalStep },
    facts: { seed: 0, model: {}, stages: [{ name: "cpt" }] },
    versions: { test: "1" },
    ...parts,
  };
}

/** How each of several ranks holds a tensor. */
export type Cut = (name: string, shape: readonly number[], rank: number) => { slice: TensorSlice; owned: boolean };

/** Rows in equal parts, as sharded training has them. */
export function byRows(size: number): Cut {
  return (_, shape, rank) => {
    const rows = Math.ceil(shape[0] / size);
    const begin = Math.min(rank * rows, shape[0]);
    const offset = shape.map((_, d) => (d === 0 ? begin : 0));
    const length = Math.min(rows, shape[0] - begin);
    return { slice: { shape, offset, size: shape.map((all, d) => (d === 0 ? length : all)) }, owned: true };
  };
}

/** The tensors as one of several ranks would hold them: copies of its slices. They belong to the scope at hand. */
export function localTensors(
  tensors: Iterable<readonly [string, torch.Tensor]>,
  cut: Cut,
  rank: number,
  fill?: number,
): LocalTensor[] {
  return torch.noGrad(() =>
    Array.from(tensors, ([name, tensor]) => {
      const { slice, owned } = cut(name, tensor.shape, rank);
      const view = viewOf(tensor.detach(), wholeSlice(tensor.shape), slice);
      const local = fill === undefined ? view.clone() : torch.full(slice.size, fill, { dtype: tensor.dtype });
      return { name, tensor: local, slice, owned };
    }),
  );
}

/** What each of several ranks would save. */
export function contentsOf(whole: Trained, size: number, cut: Cut = byRows(size), globalStep = 1): CheckpointContent[] {
  const { step, tensors } = whole.optimizer.stateDict();
  // A tensor and its optimiser state are cut alike, as in training.
  const stateCut: Cut = (name, shape, rank) => cut(name.slice(0, name.lastIndexOf(".")), shape, rank);
  return Array.from({ length: size }, (_, rank) =>
    contentOf(whole, globalStep, {
      weights: localTensors(whole.model.namedParameters(), cut, rank),
      optimizer: { step, tensors: localTensors(Object.entries(tensors), stateCut, rank) },
    }),
  );
}

/** One store for each of several ranks. */
export function storesOf(run: string, size: number, keepLatest = 2): CheckpointStore[] {
  return Array.from({ length: size }, (_, rank) => new CheckpointStore(run, keepLatest, { rank, size }));
}

/** Saves as several ranks do. */
export async function saveTogether(
  stores: readonly CheckpointStore[],
  name: string,
  contents: readonly CheckpointContent[],
): Promise<FoundCheckpoint> {
  const pending = await Promise.all(stores.map((store, rank) => store.begin(name, contents[rank])));
  return found(await stores[0].commit(pending[0], await reportsOf(pending)));
}

export async function reportsOf(pending: readonly PendingCheckpoint[]) {
  // As a group of processes would exchange them.
  return JSON.parse(JSON.stringify(await Promise.all(pending.map(({ done }) => done))));
}

/** What a folder says of itself as a checkpoint. */
export function found(folder: string): FoundCheckpoint {
  const checkpoint = readCheckpoint(folder);
  if ("problem" in checkpoint) throw new Error(`${folder}: ${checkpoint.problem}`);
  return checkpoint;
}

/** The names in a run's folder of checkpoints, hidden ones, too. */
export const checkpointsOf = (run: string) => readdirSync(join(run, "checkpoints")).sort();

/** The bits of tensors, by name. */
export function bitsOf(tensors: Iterable<readonly [string, torch.Tensor]>): Record<string, string> {
  return torch.scope(() =>
    Object.fromEntries(
      Array.from(tensors, ([name, tensor]) => {
        const { buffer } = tensor.detach().toTypedArray();
        return [name, `${tensor.shape} ${Buffer.from(buffer as ArrayBuffer).toString("base64")}`];
      }),
    ),
  );
}
