import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { type LocalTensor, sliceProblem, wholeTensor } from "../distributed/tensor-slice.js";
import type { DecoderConfig } from "../model/config.js";
import { parseConfigJson, parseEndTokens } from "../model/config-json.js";
import type { Decoder } from "../model/decoder.js";
import { missingFolder } from "../tokenizer/tokenizer-files.js";
import * as torch from "../torch/index.js";
import { CheckpointError } from "./errors.js";
import {
  CONFIG_FILE,
  EMBEDDING_WEIGHT,
  GENERATION_FILE,
  HEAD_WEIGHT,
  isDerivedWeight,
  storedWeight,
  type TensorKind,
  weightName,
} from "./layout.js";
import { stagedFolder } from "./staging.js";
import { CheckpointTensors, readJson, type StoredTensor } from "./tensors.js";

/**
 * Reads a checkpoint's config.json. If it ties the head to the embedding but the files contain two different weights,
 * they are not tied, as in transformers 5. The end tokens are those of transformers' `generate`: from
 * generation_config.json, if it exists.
 *
 * @throws CheckpointError if it is missing or is not valid JSON, ModelConfigError if the model is not supported
 */
export function readConfig(folder: string): DecoderConfig {
  const root = checkpointFolder(folder);
  const path = join(root, CONFIG_FILE);
  let config = parseConfigJson(readJson(path), path);
  if (config.tieWordEmbeddings && hasOwnHead(root)) config = { ...config, tieWordEmbeddings: false };
  const generationPath = join(root, GENERATION_FILE);
  if (!existsSync(generationPath)) return config;
  return { ...config, eosTokenId: parseEndTokens(readJson(generationPath), generationPath, config.vocabSize) };
}

/** Whether the files contain a head that differs from the embedding. Problems of the files are reported on loading. */
function hasOwnHead(root: string): boolean {
  try {
    using stored = new CheckpointTensors(root, ["model"]);
    return differs(stored);
  } catch (error) {
    if (error instanceof CheckpointError) return false;
    throw error;
  }
}

function differs(stored: CheckpointTensors): boolean {
  const found = stored.tensors("model");
  const [embedding, head] = [found.get(EMBEDDING_WEIGHT), found.get(HEAD_WEIGHT)];
  if (!embedding || !head) return false;
  if (embedding.shape.join() !== head.shape.join()) return true;
  return torch.scope(() => {
    const [a, b] = [stored.whole("model", EMBEDDING_WEIGHT), stored.whole("model", HEAD_WEIGHT)];
    return !torch.equal(a, b.to(embedding.dtype));
  });
}

/**
 * Copies a checkpoint's weights into a decoder, converting dtype and device. The checkpoint is a folder in Hugging Face
 * layout (one file, or several with an index) or a training checkpoint of several processes. Files are memory-mapped,
 * so memory never holds two copies of the weights. It yields to the event loop between tensors. All names and shapes
 * are checked before the first byte is copied.
 *
 * @throws CheckpointError CHECKPOINT_MISSING, CHECKPOINT_CORRUPT, or CHECKPOINT_MISMATCH naming every tensor that is
 *   missing, unexpected or of another shape, with its file
 */
export async function loadWeights(model: Decoder, folder: string): Promise<void> {
  const weights = Array.from(model.namedParameters(), ([name, tensor]) => wholeTensor(name, tensor));
  await loadWeightSlices(weights, folder, model.config.tieWordEmbeddings);
}

/**
 * Copies this process's slices of a model's weights from a checkpoint, without reading other parts of the files.
 *
 * @param weights every parameter by its name, with the slice of this process, which may be empty
 * @param tied whether embedding and head are tied; default: according to config.json of the folder
 * @throws see {@link loadWeights}
 */
export async function loadWeightSlices(
  weights: readonly LocalTensor[],
  folder: string,
  tied = readConfig(folder).tieWordEmbeddings,
): Promise<void> {
  const root = checkpointFolder(folder);
  using stored = new CheckpointTensors(root, ["model"]);
  if (tied && differs(stored)) {
    const problem = `${HEAD_WEIGHT} differs from ${EMBEDDING_WEIGHT}: set tieWordEmbeddings: false for the model`;
    throw new CheckpointError(
      "CHECKPOINT_MISMATCH",
      `${root} does not match its config
      ${problem}`,
    );
  }
  const found = stored.tensors("model");
  await readSlices(
    stored,
    "model",
    weights.map((weight) => ({ ...weight, name: storedWeight(weightName(weight.name), found, tied) })),
    {
      title: `${root} does not match its config`,
      wanted: "the config requires",
      isExtra: (name) => !isDerivedWeight(name, tied),
    },
  );
}

/**
 * Copies a training checkpoint's optimizer state into this process's slices of it. The caller sets the optimizer's step
 * and copies master weights to the parameters.
 *
 * @param state the optimizer's tensors, `<parameter>.<slot>`, each with the slice of this process
 * @throws CheckpointError CHECKPOINT_MISSING, CHECKPOINT_CORRUPT, CHECKPOINT_MISMATCH
 */
export async function loadOptimizerSlices(state: readonly LocalTensor[], folder: string): Promise<void> {
  using stored = new CheckpointTensors(checkpointFolder(folder), ["optimizer"]);
  await readSlices(stored, "optimizer", state, {
    title: `${stored.folder} does not match the optimizer`,
    wanted: "the optimizer has",
    isExtra: () => true,
  });
}

interface ReadSlicesOptions {
  /** First line of the error. */
  title: string;
  /** Text before the expected shape. */
  wanted: string;
  /** Whether a stored tensor without a target is an error. */
  isExtra: (name: string) => boolean;
}

/**
 * Fills local tensors from a checkpoint with any slicing. Everything is checked before the first copy.
 *
 * @throws CheckpointError CHECKPOINT_MISMATCH, CHECKPOINT_CORRUPT
 */
async function readSlices(
  stored: CheckpointTensors,
  kind: TensorKind,
  targets: readonly LocalTensor[],
  { title, wanted, isExtra }: ReadSlicesOptions,
): Promise<void> {
  const problems: string[] = [];
  const found = stored.tensors(kind);
  for (const { name, tensor, slice } of targets) {
    const there = found.get(name);
    const problem = sliceProblem(slice);
    if (problem) problems.push(`${name}: ${problem}`);
    else if (tensor.shape.join() !== slice.size.join()) {
      problems.push(`${name}: the local tensor has shape [${tensor.shape}], but its slice has size [${slice.size}]`);
    } else if (!there) problems.push(`${name} is missing, ${wanted} [${slice.shape}]`);
    else if (there.shape.join() !== slice.shape.join()) {
      problems.push(`${name} in ${fileOf(there)} is [${there.shape}], ${wanted} [${slice.shape}]`);
    }
  }
  const known = new Set(targets.map(({ name }) => name));
  for (const [name, tensor] of found) {
    if (!known.has(name) && isExtra(name)) {
      problems.push(`${name} in ${fileOf(tensor)} is not in the ${kind === "model" ? "model" : "optimizer"}`);
    }
  }
  if (problems.length > 0) {
    const shown = problems.slice(0, 12).map((problem) => `  ${problem}`);
    if (problems.length > shown.length) shown.push(`  and ${problems.length - shown.length} more`);
    throw new CheckpointError("CHECKPOINT_MISMATCH", `${title}\n${shown.join("\n")}`);
  }
  for (const { name, tensor, slice } of targets) {
    stored.read(kind, name, slice, tensor);
    await new Promise((done) => setImmediate(done));
  }
}

function fileOf({ pieces }: StoredTensor): string {
  return pieces.length === 1 ? pieces[0].file : `${pieces[0]?.file ?? "no file"} and others`;
}

/** @throws CheckpointError CHECKPOINT_MISSING if the folder does not exist or is not a checkpoint */
export function checkpointFolder(folder: string): string {
  const root = stagedFolder(folder);
  if (!existsSync(root)) throw new CheckpointError("CHECKPOINT_MISSING", missingFolder(folder));
  if (!existsSync(join(root, CONFIG_FILE))) {
    const why = `${folder} is not a checkpoint: it has no ${CONFIG_FILE}`;
    throw new CheckpointError("CHECKPOINT_MISSING", `${why}${runHint(folder)}`);
  }
  return root;
}

/** A hint for the folder of a training run, a likely mistake: its checkpoints are one level deeper. */
function runHint(folder: string): string {
  const inside = join(folder, "checkpoints");
  if (!existsSync(inside)) return "";
  const names = readdirSync(inside).filter((name) => existsSync(join(inside, name, CONFIG_FILE)));
  if (names.length === 0) return ". It is a run's folder without a finished checkpoint";
  const best = names.includes("final")
    ? "final"
    : names.sort((a, b) => a.localeCompare(b, "en", { numeric: true })).at(-1);
  return `. It is a run's folder; did you mean ${join(inside, best as string)}?`;
}
