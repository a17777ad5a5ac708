import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import * as z from "zod";
import * as torch from "../torch/index.js";
import { CONFIG_FILE, INDEX_FILE, isDerivedWeight, WEIGHTS_FILE, weightName } from "./checkpoint-layout.js";
import type { DecoderConfig } from "./config.js";
import { parseConfigJson } from "./config-json.js";
import type { Decoder } from "./decoder.js";
import { CheckpointError } from "./errors.js";
import { stagedFolder } from "./staging.js";

const indexSchema = z.looseObject({ weight_map: z.record(z.string(), z.string()) });

/**
 * Reads a checkpoint's config.json.
 *
 * @throws CheckpointError when it is missing or no JSON, ModelConfigError when it describes another kind of model
 */
export function readConfig(folder: string): DecoderConfig {
  const path = join(checkpointFolder(folder), CONFIG_FILE);
  return parseConfigJson(readJson(path), path);
}

/**
 * Copies a checkpoint's weights (safetensors, one file or shards with an index) into a decoder, converting dtype and
 * device. Files are memory-mapped: at no time are two copies of the weights in memory. Other work of the process goes on
 * between tensors. All names and shapes are checked before the first byte is copied.
 *
 * @throws CheckpointError CHECKPOINT_MISSING, CHECKPOINT_CORRUPT, or CHECKPOINT_MISMATCH naming every tensor that is
 *   missing, not known or of another shape, with its file
 */
export async function loadWeights(model: Decoder, folder: string): Promise<void> {
  const root = checkpointFolder(folder);
  const files = openFiles(root);
  try {
    const own = new Map(Array.from(model.namedParameters(), ([name, tensor]) => [weightName(name), tensor]));
    const found = locate(files);
    check(own, found, root, model.config.tieWordEmbeddings);
    for (const [name, parameter] of own) {
      const file = found.get(name) as OpenFile;
      torch.scope(() =>
        torch.noGrad(() => {
          parameter.copy_(file.tensors.get(name));
        }),
      );
      await new Promise((done) => setImmediate(done));
    }
  } finally {
    for (const { tensors } of files) tensors.dispose();
  }
}

interface OpenFile {
  name: string;
  tensors: ReturnType<typeof torch.openSafetensors>;
}

function openFiles(root: string): OpenFile[] {
  const opened: OpenFile[] = [];
  try {
    for (const name of weightFiles(root)) opened.push({ name, tensors: openFile(join(root, name)) });
    return opened;
  } catch (error) {
    for (const { tensors } of opened) tensors.dispose();
    throw error;
  }
}

/** The names of the files that hold the weights, all of them present. */
function weightFiles(root: string): string[] {
  if (existsSync(join(root, WEIGHTS_FILE))) return [WEIGHTS_FILE];
  const path = join(root, INDEX_FILE);
  if (!existsSync(path)) throw new CheckpointError("CHECKPOINT_MISSING", noWeights(root));
  const index = indexSchema.safeParse(readJson(path));
  if (!index.success) {
    throw new CheckpointError("CHECKPOINT_CORRUPT", `${path} is no index\n${z.prettifyError(index.error)}`);
  }
  const names = [...new Set(Object.values(index.data.weight_map))].sort();
  const missing = names.filter((name) => basename(name) !== name || !existsSync(join(root, name)));
  if (missing.length > 0) {
    throw new CheckpointError("CHECKPOINT_MISSING", `${path} names files that are missing: ${missing.join(", ")}`);
  }
  return names;
}

function noWeights(root: string): string {
  const other = readdirSync(root).filter((name) => /^(pytorch_model.*|.*\.(bin|pt|pth|gguf))$/.test(name));
  const hint = other.length > 0 ? `; ${other[0]} is another format: convert it to safetensors first` : "";
  return `${root} has neither ${WEIGHTS_FILE} nor ${INDEX_FILE}${hint}`;
}

function openFile(path: string): OpenFile["tensors"] {
  try {
    return torch.openSafetensors(path);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new CheckpointError("CHECKPOINT_CORRUPT", `${path} cannot be read: ${reason}`, { cause: error });
  }
}

/** Which file holds each tensor. What the files hold counts, not what the index says. */
function locate(files: OpenFile[]): Map<string, OpenFile> {
  const found = new Map<string, OpenFile>();
  for (const file of files) {
    for (const name of file.tensors.keys()) found.set(name, file);
  }
  return found;
}

function check(own: Map<string, torch.Tensor>, found: Map<string, OpenFile>, root: string, tied: boolean): void {
  const problems: string[] = [];
  for (const [name, parameter] of own) {
    const file = found.get(name);
    if (!file) {
      problems.push(`${name} is missing, the config asks for [${parameter.shape}]`);
      continue;
    }
    const { shape } = file.tensors.info(name);
    if (shape.join() !== parameter.shape.join()) {
      problems.push(`${name} in ${file.name} is [${shape}], the config asks for [${parameter.shape}]`);
    }
  }
  for (const [name, file] of found) {
    if (!own.has(name) && !isDerivedWeight(name, tied)) problems.push(`${name} in ${file.name} is not in the model`);
  }
  if (problems.length === 0) return;
  const shown = problems.slice(0, 12).map((problem) => `  ${problem}`);
  if (problems.length > shown.length) shown.push(`  and ${problems.length - shown.length} more`);
  throw new CheckpointError("CHECKPOINT_MISMATCH", `${root} does not fit its config\n${shown.join("\n")}`);
}

/** @throws CheckpointError CHECKPOINT_MISSING when there is no such folder or it is no checkpoint */
function checkpointFolder(folder: string): string {
  const root = stagedFolder(folder);
  if (!existsSync(root)) throw new CheckpointError("CHECKPOINT_MISSING", `${root} does not exist`);
  if (!existsSync(join(root, CONFIG_FILE))) {
    throw new CheckpointError("CHECKPOINT_MISSING", `${root} is no checkpoint: it has no ${CONFIG_FILE}`);
  }
  return root;
}

function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new CheckpointError("CHECKPOINT_CORRUPT", `${path} is not valid JSON: ${reason}`, { cause: error });
  }
}
