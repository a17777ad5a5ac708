import { copyFileSync, existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { DTypeLike, Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE, weightName } from "./checkpoint-layout.js";
import type { DecoderConfig } from "./config.js";
import { type ConfigJson, toConfigJson } from "./config-json.js";
import type { Decoder } from "./decoder.js";
import { replaceFolder } from "./staging.js";
import { TOKENIZER_FILES } from "./tokenizer-files.js";

/** What {@link saveCheckpoint} writes beside the weights, and how. */
export interface SaveCheckpointOptions {
  /** Default: each weight's own dtype. */
  dtype?: DTypeLike;
  /** A folder whose tokenizer files, chat template, generation_config.json and model code are copied along. */
  filesFrom?: string;
  /** Weights are split into files of at most this many bytes; default 5e9. */
  maxShardBytes?: number;
}

const SIDE_FILES: readonly string[] = [...TOKENIZER_FILES, "generation_config.json"];

/**
 * Writes a model in Hugging Face layout, so that Python transformers and everything built on it loads it: config.json,
 * generation_config.json, model.safetensors (or shards with an index) and the tokenizer files of `filesFrom`. The folder
 * is replaced as a whole; when anything fails, what was there before stays.
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
  const { dtype, filesFrom, maxShardBytes = 5e9 } = options;
  const copied = filesFrom ? copySideFiles(filesFrom, folder) : [];
  await writeWeights(model, folder, maxShardBytes, dtype);
  const [first] = model.parameters();
  const written = dtype ? torch.toDType(dtype) : first?.dtype;
  const json = toConfigJson({ ...model.config, dtype: written as DecoderConfig["dtype"] });
  // Code that is not there cannot be imported; the architecture itself needs none.
  if (!copied.some((name) => name.endsWith(".py"))) delete json.auto_map;
  writeJson(join(folder, CONFIG_FILE), json);
  if (!copied.includes("generation_config.json")) {
    writeJson(join(folder, "generation_config.json"), generationConfig(model.config));
  }
}

function copySideFiles(from: string, to: string): string[] {
  if (!existsSync(from)) return [];
  const names = readdirSync(from).filter((name) => SIDE_FILES.includes(name) || name.endsWith(".py"));
  for (const name of names) copyFileSync(join(from, name), join(to, name));
  return names;
}

interface Shard {
  tensors: [name: string, tensor: Tensor][];
  bytes: number;
}

async function writeWeights(
  model: Decoder,
  folder: string,
  maxShardBytes: number,
  dtype: DTypeLike | undefined,
): Promise<void> {
  const shards = splitWeights(model, maxShardBytes, dtype);
  const single = shards.length === 1;
  const weightMap: Record<string, string> = {};
  let total = 0;
  for (const [i, shard] of shards.entries()) {
    const file = single ? WEIGHTS_FILE : `model-${pad(i + 1)}-of-${pad(shards.length)}.safetensors`;
    torch.scope(() =>
      torch.noGrad(() => {
        const tensors = shard.tensors.map(([name, tensor]) => [name, dtype ? tensor.to(dtype) : tensor] as const);
        torch.saveSafetensors(join(folder, file), Object.fromEntries(tensors), { format: "pt" });
      }),
    );
    for (const [name] of shard.tensors) weightMap[name] = file;
    total += shard.bytes;
    await new Promise((done) => setImmediate(done));
  }
  if (!single) writeJson(join(folder, INDEX_FILE), { metadata: { total_size: total }, weight_map: weightMap });
}

/** Fills files in the order of the parameters; a tensor larger than the limit gets a file of its own. */
function splitWeights(model: Decoder, maxShardBytes: number, dtype: DTypeLike | undefined): Shard[] {
  const shards: Shard[] = [];
  let shard: Shard | undefined;
  for (const [parameter, tensor] of model.namedParameters()) {
    const bytes = tensor.numel() * bytesPerElement(dtype ?? tensor.dtype);
    if (!shard || shard.bytes + bytes > maxShardBytes) {
      shard = { tensors: [], bytes: 0 };
      shards.push(shard);
    }
    shard.tensors.push([weightName(parameter), tensor]);
    shard.bytes += bytes;
  }
  return shards;
}

function bytesPerElement(dtype: DTypeLike): number {
  const name = torch.toDType(dtype);
  return name === "float64" ? 8 : name === "float32" ? 4 : 2;
}

function generationConfig(config: DecoderConfig): ConfigJson {
  return { bos_token_id: config.bosTokenId, eos_token_id: config.eosTokenId, pad_token_id: config.padTokenId };
}

function writeJson(path: string, value: unknown): void {
  writeFileSync(path, `${JSON.stringify(value, null, 2)}\n`);
}

const pad = (index: number) => String(index).padStart(5, "0");
