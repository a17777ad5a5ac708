import { join } from "node:path";
import { isWhole, type LocalTensor, sliceProblem, volume } from "../distributed/tensor-slice.js";
import type { Decoder } from "../model/index.js";
import { byteLength } from "../torch/bytes.js";
import type { DType, Tensor } from "../torch/index.js";
import { buildHeader } from "../torch/safetensors-header.js";
import type { ShardSlices } from "./commit.js";
import {
  fullName,
  INDEX_FILE,
  OPTIMIZER_FILE,
  shardFile,
  type TensorKind,
  TRAINER_FILE,
  weightName,
} from "./layout.js";
import type { Progress, RunFingerprint, TrainerFile } from "./trainer-file.js";
import { configTexts, jsonText, layOutWeights, MAX_SHARD_BYTES, sideFiles, WEIGHTS_METADATA } from "./write.js";

/** The content of a checkpoint. In a run of several processes each one provides its part. */
export interface CheckpointContent {
  /** The model, of which the config is written. */
  model: Decoder;
  /** Parameters by name, with the slices of this process. */
  weights: readonly LocalTensor[];
  /** Whether every process holds the whole content; one of them then writes it, in Hugging Face layout. */
  replicated?: boolean;
  /** Optimizer state, in slices like the weights. */
  optimizer: { step: number; tensors: readonly LocalTensor[] } | null;
  /** A folder with tokenizer files, which are copied. */
  filesFrom?: string;
  progress: Progress;
  facts: RunFingerprint;
  versions: Record<string, string>;
}

/** Rank of this process and number of processes that save together. */
export interface CheckpointWorld {
  rank: number;
  size: number;
}

/** The files that a process writes, before any tensor is copied. */
export interface PlannedFiles {
  texts: [name: string, content: string][];
  copies: [from: string, name: string][];
  /** Safetensors files: the header, and the tensors whose bytes follow it. */
  tensorFiles: { name: string; header: Uint8Array; tensors: Tensor[] }[];
}

/** Plans the files of this process: all of them if its tensors are whole, else a shard with the slices that it owns. */
export function planFiles(content: CheckpointContent, world: CheckpointWorld): PlannedFiles {
  const weights = content.weights.map((weight) => ({ ...weight, name: weightName(weight.name) }));
  const state = content.optimizer;
  for (const { name, tensor, slice } of [...weights, ...(state?.tensors ?? [])]) check(name, tensor, slice, world);
  const texts = world.rank === 0 ? smallFiles(content, weights[0]?.tensor.dtype ?? "float32", state?.step ?? null) : [];
  const copies = world.rank === 0 ? sideFilesOf(content) : [];
  if (world.size > 1 && !content.replicated) {
    return { texts, copies, tensorFiles: [shard(weights, state?.tensors ?? [], world)] };
  }
  // Replicas hold everything, so one of them writes it like a single process.
  if (!weights.some(({ owned }) => owned)) return { texts, copies, tensorFiles: [] };
  const layout = layOutWeights(
    weights.map((weight) => ({ ...weight, bytes: byteLength(weight.tensor) })),
    MAX_SHARD_BYTES,
  );
  if (layout.index !== undefined) texts.push([INDEX_FILE, layout.index]);
  const tensorFiles = layout.files.map(({ file, tensors }) => tensorFile(file, tensors, WEIGHTS_METADATA));
  if (state) tensorFiles.push(tensorFile(OPTIMIZER_FILE, state.tensors, {}));
  return { texts, copies, tensorFiles };
}

function check(name: string, tensor: Tensor, slice: LocalTensor["slice"], { size }: CheckpointWorld): void {
  const problem = sliceProblem(slice);
  if (problem) throw new Error(`${name}: ${problem}`);
  if (tensor.shape.join() !== slice.size.join()) {
    throw new Error(`${name}: the local tensor has shape [${tensor.shape}], but its slice has size [${slice.size}]`);
  }
  if (size === 1 && !isWhole(slice)) throw new Error(`${name} is only a part, but no other process has the rest`);
}

function smallFiles(content: CheckpointContent, dtype: DType, optimizerStep: number | null): [string, string][] {
  const trainer: TrainerFile = {
    format: 1,
    savedAt: new Date().toISOString(),
    versions: content.versions,
    optimizerStep,
    progress: content.progress,
    facts: content.facts,
  };
  return [...configTexts(content.model.config, dtype, content.filesFrom), [TRAINER_FILE, jsonText(trainer)]];
}

function sideFilesOf({ filesFrom }: CheckpointContent): [string, string][] {
  if (filesFrom === undefined) return [];
  return sideFiles(filesFrom).map((name) => [join(filesFrom, name), name]);
}

/** The shard of one rank: its slices under their full names, with their offsets in the metadata. */
function shard(weights: readonly LocalTensor[], state: readonly LocalTensor[], { rank, size }: CheckpointWorld) {
  const written = (kind: TensorKind, tensors: readonly LocalTensor[]) =>
    tensors
      .filter(({ owned, slice }) => owned && volume(slice.size) > 0)
      .map((tensor) => ({ ...tensor, name: fullName(kind, tensor.name) }));
  const tensors = [...written("model", weights), ...written("optimizer", state)];
  const slices: ShardSlices = {};
  for (const { name, slice } of tensors) slices[name] = { shape: [...slice.shape], offset: [...slice.offset] };
  const metadata = { rank: String(rank), world: String(size), slices: JSON.stringify(slices) };
  return tensorFile(shardFile(rank, size), tensors, metadata);
}

function tensorFile(
  name: string,
  tensors: readonly { name: string; tensor: Tensor }[],
  metadata: Record<string, string>,
): PlannedFiles["tensorFiles"][number] {
  const entries = tensors.map(({ name, tensor }) => ({ name, tensor, dtype: tensor.dtype, shape: tensor.shape }));
  const { bytes, order } = buildHeader(entries, metadata);
  return { name, header: bytes, tensors: order.map(({ tensor }) => tensor) };
}
