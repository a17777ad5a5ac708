import { existsSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";
import * as z from "zod";
import { optionsParser } from "../base/options.js";
import { FileError, readTextFile } from "../base/regular-file.js";
import { coverProblem, overlap, type TensorSlice, viewOf, volume, wholeSlice } from "../distributed/tensor-slice.js";
import { parsePythonJson } from "../tokenizer/python-json.js";
import { messageOf } from "../torch/errors.js";
import type { DType, SafetensorsFile, Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { CheckpointError } from "./errors.js";
import {
  INDEX_FILE,
  isShardFile,
  MANIFEST_FILE,
  OLD_OPTIMIZER_FILE,
  OPTIMIZER_FILE,
  type TensorKind,
  WEIGHTS_FILE,
} from "./layout.js";
import { readManifest } from "./manifest.js";
import type { Manifest } from "./manifest-text.js";

/** A tensor in a checkpoint, whole or in the slices of several ranks. */
export interface StoredTensor {
  dtype: DType;
  shape: readonly number[];
  pieces: readonly StoredPiece[];
}

interface StoredPiece {
  file: string;
  /** Its name in the file. */
  key: string;
  slice: TensorSlice;
}

const parseFile = optionsParser(CheckpointError, "CHECKPOINT_CORRUPT");
const indexSchema = z.looseObject({ weight_map: z.record(z.string(), z.string()) });

/**
 * The tensors of a checkpoint in any layout: a Hugging Face folder (one file, or several with an index), a training
 * checkpoint of one process, or the shards of several. Files are opened when they are first read.
 */
export class CheckpointTensors implements Disposable {
  readonly folder: string;
  readonly #files = new Map<string, SafetensorsFile>();
  readonly #tensors: Record<TensorKind, Map<string, StoredTensor>> = { model: new Map(), optimizer: new Map() };

  /**
   * @param kinds kinds of tensors to index; files of other kinds are ignored
   * @throws CheckpointError CHECKPOINT_MISSING or CHECKPOINT_CORRUPT
   */
  constructor(folder: string, kinds: readonly TensorKind[]) {
    this.folder = folder;
    try {
      const sharded = shardedManifest(folder);
      if (sharded) this.#indexShards(sharded, kinds);
      else for (const kind of kinds) this.#indexFiles(kind);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** All tensors of a kind: weights by their Hugging Face name, optimizer state by `<parameter>.<slot>`. */
  tensors(kind: TensorKind): ReadonlyMap<string, StoredTensor> {
    return this.#tensors[kind];
  }

  /**
   * Copies a slice of a stored tensor into a local tensor of the slice's size, converting dtype and device.
   *
   * @throws CheckpointError CHECKPOINT_CORRUPT if the files do not contain all of it
   */
  read(kind: TensorKind, name: string, slice: TensorSlice, target: Tensor): void {
    const { pieces } = this.#stored(kind, name);
    let elements = 0;
    torch.scope(() =>
      torch.noGrad(() => {
        const into = target.detach();
        for (const piece of pieces) {
          const shared = overlap(piece.slice, slice);
          if (shared === null) continue;
          viewOf(into, slice, shared).copy_(viewOf(this.#piece(piece), piece.slice, shared));
          elements += volume(shared.size);
        }
      }),
    );
    const wanted = volume(slice.size);
    if (elements === wanted) return;
    const problem = `${kind} ${name}: the files contain ${elements} of ${wanted} elements`;
    throw new CheckpointError("CHECKPOINT_CORRUPT", `${this.folder} is incomplete: ${problem}`);
  }

  /** Reads a whole stored tensor to the CPU, into new memory. */
  whole(kind: TensorKind, name: string): Tensor {
    const { dtype, shape, pieces } = this.#stored(kind, name);
    const [first] = pieces;
    if (pieces.length === 1 && volume(first.slice.size) === volume(shape)) return this.#piece(first);
    const tensor = torch.empty(shape, { dtype });
    this.read(kind, name, wholeSlice(shape), tensor);
    return tensor;
  }

  /** Closes the files. They are reopened when needed. */
  release(): void {
    for (const file of this.#files.values()) file.dispose();
    this.#files.clear();
  }

  dispose(): void {
    this.release();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #stored(kind: TensorKind, name: string): StoredTensor {
    const stored = this.#tensors[kind].get(name);
    if (stored) return stored;
    throw new CheckpointError("CHECKPOINT_MISMATCH", `${this.folder} has no ${kind} tensor ${name}`);
  }

  #indexShards({ tensors, shards }: Manifest, kinds: readonly TensorKind[]): void {
    for (const [key, { dtype, shape, slices }] of Object.entries(tensors)) {
      const [kind, name] = split(key);
      if (!kinds.includes(kind)) continue;
      const pieces = slices.map(([shard, offset, size]) => ({
        file: shards[shard],
        key,
        slice: { shape, offset, size },
      }));
      const problem = coverProblem(
        shape,
        pieces.map(({ slice }) => slice),
      );
      if (problem)
        throw new CheckpointError("CHECKPOINT_CORRUPT", `${join(this.folder, MANIFEST_FILE)}: ${key}: ${problem}`);
      this.#tensors[kind].set(name, { dtype, shape, pieces });
    }
  }

  /** Indexes the contents of the files, not those of the index file. */
  #indexFiles(kind: TensorKind): void {
    for (const file of kind === "model" ? weightFiles(this.folder) : [optimizerFile(this.folder)]) {
      const opened = this.#open(file);
      for (const key of opened.keys()) {
        const { dtype, shape } = opened.info(key);
        this.#tensors[kind].set(key, { dtype, shape, pieces: [{ file, key, slice: wholeSlice(shape) }] });
      }
    }
  }

  #piece({ file, key, slice }: StoredPiece): Tensor {
    const opened = this.#open(file);
    if (!opened.has(key) || opened.info(key).shape.join() !== slice.size.join()) {
      const found = opened.has(key) ? `is [${opened.info(key).shape}]` : "is missing";
      const problem = `${key} ${found}, but its shape in the manifest is [${slice.size}]`;
      throw new CheckpointError("CHECKPOINT_CORRUPT", `${join(this.folder, file)}: ${problem}`);
    }
    return opened.get(key);
  }

  #open(name: string): SafetensorsFile {
    const known = this.#files.get(name);
    if (known) return known;
    const path = join(this.folder, name);
    if (!existsSync(path)) throw new CheckpointError("CHECKPOINT_MISSING", `${path} is missing`);
    try {
      const file = torch.openSafetensors(path);
      this.#files.set(name, file);
      return file;
    } catch (error) {
      throw new CheckpointError("CHECKPOINT_CORRUPT", `${path} cannot be read: ${messageOf(error)}`, { cause: error });
    }
  }
}

function split(key: string): [TensorKind, string] {
  const slash = key.indexOf("/");
  return [key.slice(0, slash) as TensorKind, key.slice(slash + 1)];
}

/** The manifest, if the folder has shards of several processes. */
function shardedManifest(folder: string): Manifest | undefined {
  if (existsSync(join(folder, WEIGHTS_FILE)) || existsSync(join(folder, INDEX_FILE))) return undefined;
  const manifest = readManifest(folder);
  if (typeof manifest === "string") {
    throw new CheckpointError("CHECKPOINT_CORRUPT", `${join(folder, MANIFEST_FILE)} is damaged`);
  }
  return manifest?.format === 2 && manifest.shards.some(isShardFile) ? manifest : undefined;
}

function optimizerFile(folder: string): string {
  return existsSync(join(folder, OLD_OPTIMIZER_FILE)) ? OLD_OPTIMIZER_FILE : OPTIMIZER_FILE;
}

/** The names of the weight files in Hugging Face layout, all of which exist. */
function weightFiles(root: string): string[] {
  if (existsSync(join(root, WEIGHTS_FILE))) return [WEIGHTS_FILE];
  const path = join(root, INDEX_FILE);
  if (!existsSync(path)) throw new CheckpointError("CHECKPOINT_MISSING", noWeights(root));
  const index = parseFile(path, indexSchema, readJson(path));
  const names = [...new Set(Object.values(index.weight_map))].sort();
  const missing = names.filter((name) => basename(name) !== name || !existsSync(join(root, name)));
  if (missing.length > 0) {
    throw new CheckpointError("CHECKPOINT_MISSING", `${path} refers to missing files: ${missing.join(", ")}`);
  }
  return names;
}

function noWeights(root: string): string {
  const names = readdirSync(root);
  const other = names.find((name) => /^(pytorch_model.*|.*\.(bin|pt|pth|gguf))$/.test(name));
  const format = other === undefined ? "" : `; ${other} is another format: convert it to safetensors first`;
  const shards = names.some(isShardFile) ? `; it has shards, but no ${MANIFEST_FILE} that describes them` : "";
  return `${root} has neither ${WEIGHTS_FILE} nor ${INDEX_FILE}${shards || format}`;
}

/**
 * Reads a JSON file as written by Python, in which NaN and Infinity are numbers.
 *
 * @throws CheckpointError CHECKPOINT_CORRUPT
 */
export function readJson(path: string): unknown {
  try {
    return parsePythonJson(readTextFile(path));
  } catch (error) {
    if (error instanceof FileError) {
      throw new CheckpointError("CHECKPOINT_CORRUPT", `${path} cannot be read: ${error.message}`, { cause: error });
    }
    throw new CheckpointError("CHECKPOINT_CORRUPT", `${path} is not valid JSON: ${messageOf(error)}`, { cause: error });
  }
}
