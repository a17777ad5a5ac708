import { TOKENIZER_FILES } from "../tokenizer/tokenizer-files.js";

/** Files of the Hugging Face layout. */
export const CONFIG_FILE = "config.json";
export const GENERATION_FILE = "generation_config.json";
export const WEIGHTS_FILE = "model.safetensors";
export const INDEX_FILE = "model.safetensors.index.json";

/** Additional files of a training checkpoint. */
/**
 * A safetensors file with another extension, because programs that search a folder for `*.safetensors` take each for
 * weights.
 */
export const OPTIMIZER_FILE = "optimizer.state";
/** Its name in earlier versions. */
export const OLD_OPTIMIZER_FILE = "optimizer.safetensors";
export const TRAINER_FILE = "trainer.json";
export const MANIFEST_FILE = "manifest.json";

const OWN_FILES: ReadonlySet<string> = new Set([
  ...[CONFIG_FILE, GENERATION_FILE, WEIGHTS_FILE, INDEX_FILE],
  ...[OPTIMIZER_FILE, OLD_OPTIMIZER_FILE, TRAINER_FILE, MANIFEST_FILE],
  ...TOKENIZER_FILES,
]);

/** The name of an unnamed checkpoint of a run. */
export function stepCheckpoint(globalStep: number): string {
  return `step-${String(globalStep).padStart(6, "0")}`;
}

/** Whether a checkpoint's name is one of {@link stepCheckpoint}. */
export function isStepCheckpoint(name: string): boolean {
  return /^step-\d+$/.test(name);
}

/** The file of one rank's slices, in a checkpoint of several processes: shard-00002-of-00004.safetensors. */
export function shardFile(rank: number, worldSize: number): string {
  return `shard-${padIndex(rank)}-of-${padIndex(worldSize)}.safetensors`;
}

/** Whether a file belongs to a checkpoint by its name, so that saving may replace it. */
export function isCheckpointFile(name: string): boolean {
  return OWN_FILES.has(name) || isShardFile(name) || /^model-\d+-of-\d+\.safetensors$/.test(name);
}

/**
 * Whether a file is one of {@link shardFile}: tensors in these files have their full names, `model/...` and
 * `optimizer/...`.
 */
export function isShardFile(name: string): boolean {
  return /^shard-\d+-of-\d+\.safetensors$/.test(name);
}

/** The name of one of several files with weights in Hugging Face layout, counted from 0. */
export function weightsPart(index: number, count: number): string {
  return count === 1 ? WEIGHTS_FILE : `model-${padIndex(index + 1)}-of-${padIndex(count)}.safetensors`;
}

export const padIndex = (index: number) => String(index).padStart(5, "0");

/** Kind of a tensor in a checkpoint: weights have their Hugging Face name, optimizer state is `<parameter>.<slot>`. */
export type TensorKind = "model" | "optimizer";

/** The name of a tensor in a manifest and in shards. */
export function fullName(kind: TensorKind, name: string): string {
  return `${kind}/${name}`;
}

/**
 * The Hugging Face name of a decoder's parameter: `layers.0.selfAttn.qProj.weight` is
 * `model.layers.0.self_attn.q_proj.weight`, and only `lmHead` is outside `model.`.
 */
export function weightName(parameter: string): string {
  const snake = parameter.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return snake.startsWith("lm_head.") ? snake : `model.${snake}`;
}

/** The weights that are shared with `tie_word_embeddings`. */
export const EMBEDDING_WEIGHT = "model.embed_tokens.weight";
export const HEAD_WEIGHT = "lm_head.weight";

/**
 * The name under which a weight is stored: a file with tied weights may contain only the head, which is then the
 * embedding.
 */
export function storedWeight(name: string, stored: { has(name: string): boolean }, tied: boolean): string {
  const isHeadAlone = tied && name === EMBEDDING_WEIGHT && !stored.has(name) && stored.has(HEAD_WEIGHT);
  return isHeadAlone ? HEAD_WEIGHT : name;
}

/** Whether a weight in an older checkpoint is one that the decoder computes itself. */
export function isDerivedWeight(name: string, tied: boolean): boolean {
  return name.endsWith(".rotary_emb.inv_freq") || (tied && name === HEAD_WEIGHT);
}
