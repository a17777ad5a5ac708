import { closeSync, copyFileSync, fsyncSync, openSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeAll } from "../base/regular-file.js";
import { Decoder } from "../model/decoder.js";
import { byteLength, itemSize, readBytes } from "../torch/bytes.js";
import type { DType, DTypeLike, Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { buildHeader } from "../torch/safetensors-header.js";
import { CheckpointError } from "./errors.js";
import { INDEX_FILE, isDerivedWeight, storedWeight, weightName } from "./layout.js";
import { checkpointFolder, readConfig } from "./read.js";
import { replaceFolder } from "./staging.js";
import { CheckpointTensors } from "./tensors.js";
import { configTexts, layOutWeights, MAX_SHARD_BYTES, sideFiles, WEIGHTS_METADATA } from "./write.js";

/** Options of {@link exportCheckpoint}. */
export interface ExportOptions {
  /** Default: each weight's own dtype. */
  dtype?: DTypeLike;
  /** Weights are split into files of at most this many bytes; default 5e9. */
  maxShardBytes?: number;
  /** Called for every tensor, with bytes of the new files. */
  onProgress?: (progress: { tensor: string; done: number; total: number }) => void;
  signal?: AbortSignal;
}

/** Maximum bytes of mapped files to keep in memory. */
const MAPPED_BYTES = 256 * 2 ** 20;
/** Bytes per write. */
const WRITE_BYTES = 8 * 2 ** 20;

interface Weight {
  name: string;
  /** Its name in the checkpoint. */
  from: string;
  dtype: DType;
  shape: readonly number[];
  bytes: number;
  /** Bytes as stored in the checkpoint. */
  bytesBefore: number;
}

/**
 * Writes the weights of a checkpoint in Hugging Face layout, with its config and tokenizer: from a training checkpoint
 * of any number of processes, or to change the dtype or the file sizes. Tensors are copied one by one from mapped
 * files, so host memory holds no more than the largest tensor, and no device is used.
 *
 * @param target folder that is replaced atomically; it is unchanged if the export fails
 * @throws CheckpointError CHECKPOINT_MISSING, CHECKPOINT_CORRUPT, CHECKPOINT_MISMATCH, CHECKPOINT_WRITE
 */
export async function exportCheckpoint(folder: string, target: string, options: ExportOptions = {}): Promise<void> {
  const root = checkpointFolder(folder);
  const config = readConfig(root);
  const dtype = options.dtype === undefined ? undefined : torch.toDType(options.dtype);
  using stored = new CheckpointTensors(root, ["model"]);
  const tensors = stored.tensors("model");
  const weights = namesOf(stored, config).map((name): Weight => {
    const from = storedWeight(name, tensors, config.tieWordEmbeddings);
    const found = tensors.get(from);
    if (!found)
      throw new CheckpointError(
        "CHECKPOINT_MISMATCH",
        `${root} does not match its config
        ${name} is missing`,
      );
    const written = dtype ?? found.dtype;
    const elements = found.shape.reduce((product, size) => product * size, 1);
    const bytesBefore = elements * itemSize(found.dtype);
    return { name, from, dtype: written, shape: found.shape, bytes: elements * itemSize(written), bytesBefore };
  });
  const layout = layOutWeights(weights, options.maxShardBytes ?? MAX_SHARD_BYTES);
  const copied = sideFiles(root);
  const texts = configTexts(config, weights[0].dtype, root);
  await replaceFolder(target, async (staging) => {
    for (const name of copied) copyFileSync(join(root, name), join(staging, name));
    for (const [name, text] of texts) writeFileSync(join(staging, name), text);
    if (layout.index !== undefined) writeFileSync(join(staging, INDEX_FILE), layout.index);
    const pump = new Pump(stored, weights, options);
    for (const { file, tensors } of layout.files) await pump.write(join(staging, file), tensors);
  });
}

/** The weights that the config requires, in the order of the model's parameters. */
function namesOf(stored: CheckpointTensors, config: Decoder["config"]): string[] {
  using model = new Decoder(config, { device: "meta", init: false });
  const names = Array.from(model.namedParameters(), ([name]) => weightName(name));
  const known = new Set(names);
  const extra = [...stored.tensors("model").keys()].filter(
    (name) => !known.has(name) && !isDerivedWeight(name, config.tieWordEmbeddings),
  );
  if (extra.length === 0) return names;
  const list = extra.slice(0, 12).map((name) => `  ${name} is not in the model`);
  throw new CheckpointError(
    "CHECKPOINT_MISMATCH",
    `${stored.folder} does not match its config
  ${list.join("\n")}`,
  );
}

/** Copies tensors from mapped files to new ones. */
class Pump {
  readonly #stored: CheckpointTensors;
  readonly #options: ExportOptions;
  readonly #total: number;
  #done = 0;
  /** Bytes read since the mapped files were last closed. */
  #mapped = 0;

  constructor(stored: CheckpointTensors, weights: readonly Weight[], options: ExportOptions) {
    this.#stored = stored;
    this.#options = options;
    this.#total = weights.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** Writes one safetensors file, tensor by tensor. */
  async write(path: string, weights: readonly Weight[]): Promise<void> {
    const { bytes, order } = buildHeader(weights, WEIGHTS_METADATA);
    const descriptor = openSync(path, "w");
    try {
      writeAll(descriptor, bytes);
      for (const weight of order) {
        this.#options.signal?.throwIfAborted();
        this.#move(descriptor, weight);
        this.#done += weight.bytes;
        this.#options.onProgress?.({ tensor: weight.name, done: this.#done, total: this.#total });
        await new Promise((done) => setImmediate(done));
      }
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
  }

  #move(descriptor: number, { from, dtype, bytesBefore }: Weight): void {
    torch.scope(() =>
      torch.noGrad(() => {
        const flat = this.#stored.whole("model", from).view([-1]);
        const length = Math.floor(WRITE_BYTES / itemSize(dtype));
        for (let begin = 0, total = flat.numel(); begin < total; begin += length) {
          torch.scope(() => writeTensor(descriptor, flat.narrow(0, begin, Math.min(length, total - begin)).to(dtype)));
        }
      }),
    );
    this.#mapped += bytesBefore;
    if (this.#mapped < MAPPED_BYTES) return;
    this.#mapped = 0;
    this.#stored.release();
  }
}

function writeTensor(descriptor: number, tensor: Tensor): void {
  const bytes = new Uint8Array(byteLength(tensor));
  readBytes(tensor, bytes);
  writeAll(descriptor, bytes);
}
