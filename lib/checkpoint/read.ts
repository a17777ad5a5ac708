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
 * Reads a checkpoint's config.json. Where it ties the head to the embedding and the files have both and different, they are
 * not tied, as in transformers 5. Its end tokens are those at which `generate` of transformers ends: of
 * generation_config.json, if there is one.
 *
 * @throws CheckpointError when it is missing or is not valid JSON, ModelConfigError when it describes another kind of model
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

/** Whether the files hold a head besides the embedding, and another one. What is wrong with them shows on loading. */
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
 * Copies a checkpoint's weights into a decoder, converting dtype and device. It may be a folder in Hugging Face layout
 * (one file or several with an index) or a training checkpoint that several processes wrote. Files are memory-mapped: at
 * no time are two copies of the weights in memory. Other work of the process goes on between tensors. All names and shapes
 * are checked before the first byte is copied.
 *
 * @throws CheckpointError CHECKPOINT_MISSING, CHECKPOINT_CORRUPT, or CHECKPOINT_MISMATCH naming every tensor that is
 *   missing, not known or of another shape, with its file
 */
export async function loadWeights(model: Decoder, folder: string): Promise<void> {
  const weights = Array.from(model.namedParameters(), ([name, tensor]) => wholeTensor(name, tensor));
  await loadWeightSlices(weights, folder, model.config.tieWordEmbeddings);
}

/**
 * Copies what a process has of a model's weights from a checkpoint, reading no other part of the files.
 *
 * @param weights every parameter by its name, with the slice that is here; a slice may be empty
 * @param tied whether the embedding is the head, too; default: what config.json of the folder says
 * @throws as {@link loadWeights}
 */
export async function loadWeightSlices(
  weights: readonly LocalTensor[],
  folder: string,
  tied = readConfig(folder).tieWordEmbeddings,
): Promise<void> {
  const root = checkpointFolder(folder);
  using stored = new CheckpointTensors(root, ["model"]);
  if (tied && differs(stored)) {
    const problem = `${HEAD_WEIGHT} is not ${EMBEDDING_WEIGHT}: the model needs tieWordEmbeddings: false`;
    throw new CheckpointError("CHECKPOINT_MISMATCH", `${root} does not fit its config\n  ${problem}`);
  }
  const found = stored.tensors("model");
  await readSlices(
    stored,
    "model",
    weights.map((weight) => ({ ...weight, name: storedWeight(weightName(weight.name), found, tied) })),
    {
      title: `${root} does not fit its config`,
      wanted: "the config asks for",
      isExtra: (name) => !isDerivedWeight(name, tied),
    },
  );
}

/**
 * Copies a training checkpoint's optimiser state into the slices of it that are in this process. The caller sets its
 * optimiser's step, and copies master weights to the parameters.
 *
 * @param state the optimiser's tensors, `<parameter>.<slot>`, each with the slice that is here
 * @throws CheckpointError CHECKPOINT_MISSING, CHECKPOINT_CORRUPT, CHECKPOINT_MISMATCH
 */
export async function loadOptimizerSlices(state: readonly LocalTensor[], folder: string): Promise<void> {
  using stored = new CheckpointTensors(checkpointFolder(folder), ["optimizer"]);
  await readSlices(stored, "optimizer", state, {
    title: `${stored.folder} does not fit the optimiser`,
    wanted: "the optimiser has",
    isExtra: () => true,
  });
}

interface ReadSlicesOptions {
  /** First line of the error. */
  title: string;
  /** Precedes the shape that was expected. */
  wanted: string;
  /** Whether a stored tensor without a target is a mistake. */
  isExtra: (name: string) => boolean;
}

/**
 * Fills local tensors from those of a checkpoint, whatever slices they are in there. Everything is checked first.
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
      problems.push(`${name}: the local tensor is [${tensor.shape}], its slice [${slice.size}]`);
    } else if (!there) problems.push(`${name} is missing, ${wanted} [${slice.shape}]`);
    else if (there.shape.join() !== slice.shape.join()) {
      problems.push(`${name} in ${fileOf(there)} is [${there.shape}], ${wanted} [${slice.shape}]`);
    }
  }
  const known = new Set(targets.map(({ name }) => name));
  for (const [name, tensor] of found) {
    if (!known.has(name) && isExtra(name)) {
      problems.push(`${name} in ${fileOf(tensor)} is not in the ${kind === "model" ? "model" : "optimiser"}`);
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

/** @throws CheckpointError CHECKPOINT_MISSING when there is no such folder or it is not a checkpoint */
export function checkpointFolder(folder: string): string {
  const root = stagedFolder(folder);
  if (!existsSync(root)) throw new CheckpointError("CHECKPOINT_MISSING", missingFolder(folder));
  if (!existsSync(join(root, CONFIG_FILE))) {
    const why = `${folder} is not a checkpoint: it has no ${CONFIG_FILE}`;
    throw new CheckpointError("CHECKPOINT_MISSING", `${why}${runHint(folder)}`);
  }
  return root;
}

/** The folder of a training run is a likely mistake: its checkpoints lie one level deeper. */
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
