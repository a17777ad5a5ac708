import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { DecoderConfig } from "../model/config.js";
import { type ConfigJson, toConfigJson } from "../model/config-json.js";
import type { Decoder } from "../model/decoder.js";
import { additionalTemplates, MAIN_TEMPLATE_FILE, readChatTemplates } from "../tokenizer/chat-template-files.js";
import { tagSpecialNumbers } from "../tokenizer/python-json.js";
import { TOKENIZER_FILES } from "../tokenizer/tokenizer-files.js";
import { byteLength, itemSize } from "../torch/bytes.js";
import type { DType, DTypeLike } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { CONFIG_FILE, GENERATION_FILE, INDEX_FILE, weightName, weightsPart } from "./layout.js";
import { replaceFolder } from "./staging.js";
import { readJson } from "./tensors.js";

/** Options of {@link saveCheckpoint}. */
export interface SaveCheckpointOptions {
  /** Default: each weight's own dtype. */
  dtype?: DTypeLike;
  /** A folder from which tokenizer files, chat template, generation_config.json and model code are copied. */
  filesFrom?: string;
  /** Weights are split into files of at most this many bytes; default 5e9. */
  maxShardBytes?: number;
}

/** Default maximum size of a file of weights, in bytes. */
export const MAX_SHARD_BYTES = 5e9;

/** Metadata of model.safetensors, which transformers requires. */
export const WEIGHTS_METADATA = { format: "pt" };

const TOKENIZER_CONFIG_FILE = "tokenizer_config.json";
// tokenizer_config.json is not copied but written, see configTexts.
const SIDE_FILES: readonly string[] = [
  ...TOKENIZER_FILES.filter((name) => name !== TOKENIZER_CONFIG_FILE),
  GENERATION_FILE,
];

/**
 * Writes a model in Hugging Face layout, for transformers and compatible programs: config.json, generation_config.json,
 * model.safetensors (or shards with an index) and the tokenizer files of `filesFrom`. The folder is replaced atomically
 * and is unchanged if saving fails.
 *
 * @throws CheckpointError CHECKPOINT_WRITE
 */
export async function saveCheckpoint(
  model: Decoder,
  folder: string,
  options: SaveCheckpointOptions = {},
): Promise<void> {
  await replaceFolder(folder, (staging) => writeCheckpoint(model, staging, options));
}

/** Writes the files of {@link saveCheckpoint} into an existing folder, for callers that replace a larger one. */
export async function writeCheckpoint(
  model: Decoder,
  folder: string,
  options: SaveCheckpointOptions = {},
): Promise<void> {
  const { dtype, filesFrom, maxShardBytes = MAX_SHARD_BYTES } = options;
  const copied = filesFrom ? sideFiles(filesFrom) : [];
  for (const name of copied) copyFileSync(join(filesFrom as string, name), join(folder, name));
  const weights = Array.from(model.namedParameters(), ([parameter, tensor]) => {
    const name = weightName(parameter);
    const bytes = dtype ? tensor.numel() * itemSize(torch.toDType(dtype)) : byteLength(tensor);
    return { name, tensor, bytes };
  });
  const layout = layOutWeights(weights, maxShardBytes);
  for (const { file, tensors } of layout.files) {
    torch.scope(() =>
      torch.noGrad(() => {
        const entries = tensors.map(({ name, tensor }) => [name, dtype ? tensor.to(dtype) : tensor] as const);
        torch.saveSafetensors(join(folder, file), Object.fromEntries(entries), WEIGHTS_METADATA);
      }),
    );
    await new Promise((done) => setImmediate(done));
  }
  if (layout.index !== undefined) writeFileSync(join(folder, INDEX_FILE), layout.index);
  const written = dtype ? torch.toDType(dtype) : weights[0]?.tensor.dtype;
  for (const [name, text] of configTexts(model.config, written, filesFrom)) writeFileSync(join(folder, name), text);
}

/** The names of the files in a folder that are copied with a model's weights. */
export function sideFiles(folder: string): string[] {
  if (!existsSync(folder)) return [];
  const listed = additionalTemplates(folder).length > 0; // see templatesOf
  return readdirSync(folder).filter(
    (name) => (SIDE_FILES.includes(name) && !(listed && name === MAIN_TEMPLATE_FILE)) || name.endsWith(".py"),
  );
}

/**
 * The texts of the files that are derived from the model's config, by name: config.json, generation_config.json and
 * tokenizer_config.json, whose model_max_length is the model's context.
 *
 * @param filesFrom folder of the tokenizer files and generation_config.json, which are copied unchanged
 */
export function configTexts(config: DecoderConfig, dtype: DType, filesFrom: string | undefined): [string, string][] {
  const copied = filesFrom === undefined ? [] : sideFiles(filesFrom);
  const json = toConfigJson({ ...config, dtype: dtype as DecoderConfig["dtype"] });
  // Removed, because it refers to model code that is not copied; the architecture does not need it.
  if (!copied.some((name) => name.endsWith(".py"))) delete json.auto_map;
  const texts: [string, string][] = [[CONFIG_FILE, jsonText(json)]];
  if (!copied.includes(GENERATION_FILE)) {
    texts.push([GENERATION_FILE, jsonText(generationConfig(config))]);
  }
  if (filesFrom !== undefined) {
    const path = join(filesFrom, TOKENIZER_CONFIG_FILE);
    const tokenizerConfig = existsSync(path) ? (readJson(path) as ConfigJson) : undefined;
    const templates = templatesOf(filesFrom);
    if (tokenizerConfig ?? templates) {
      const own = { ...tokenizerConfig, ...templates, model_max_length: config.maxPositionEmbeddings };
      texts.push([TOKENIZER_CONFIG_FILE, jsonText(own)]);
    }
  }
  return texts;
}

/**
 * The entry of several chat templates in tokenizer_config.json. A checkpoint is a flat folder, so templates in a
 * subfolder are converted to a list, which transformers reads, too; undefined without such a folder.
 */
function templatesOf(folder: string): ConfigJson | undefined {
  if (additionalTemplates(folder).length === 0) return undefined;
  const templates = readChatTemplates(folder, {}, (path) => readFileSync(path, "utf8")) ?? new Map<string, string>();
  return { chat_template: Array.from(templates, ([name, template]) => ({ name, template })) };
}

/** The assignment of weights to files, and the text of the index if there are several. */
export interface WeightsLayout<W> {
  files: { file: string; tensors: W[] }[];
  index?: string;
}

/** Assigns weights to files in order; a tensor larger than the limit gets a separate file. */
export function layOutWeights<W extends { name: string; bytes: number }>(
  weights: readonly W[],
  maxShardBytes: number,
): WeightsLayout<W> {
  const shards: { tensors: W[]; bytes: number }[] = [];
  for (const weight of weights) {
    let shard = shards.at(-1);
    if (!shard || shard.bytes + weight.bytes > maxShardBytes) {
      shard = { tensors: [], bytes: 0 };
      shards.push(shard);
    }
    shard.tensors.push(weight);
    shard.bytes += weight.bytes;
  }
  const files = shards.map(({ tensors }, i) => ({ file: weightsPart(i, shards.length), tensors }));
  if (files.length <= 1) return { files };
  const weightMap = Object.fromEntries(files.flatMap(({ file, tensors }) => tensors.map(({ name }) => [name, file])));
  const total = shards.reduce((sum, { bytes }) => sum + bytes, 0);
  return { files, index: jsonText({ metadata: { total_size: total }, weight_map: weightMap }) };
}

function generationConfig(config: DecoderConfig): ConfigJson {
  return { bos_token_id: config.bosTokenId, eos_token_id: config.eosTokenId, pad_token_id: config.padTokenId };
}

export function jsonText(value: unknown): string {
  return `${JSON.stringify(value, tagSpecialNumbers, 2)}\n`;
}
