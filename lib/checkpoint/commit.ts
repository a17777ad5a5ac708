import { closeSync, fstatSync, openSync, readdirSync, readSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { coverProblem } from "../distributed/tensor-slice.js";
import { type Header, parseHeader } from "../torch/safetensors-header.js";
import { fullName, isShardFile, isStepCheckpoint, MANIFEST_FILE, OPTIMIZER_FILE } from "./layout.js";
import { formatManifest, type Manifest, type ManifestTensor } from "./manifest-text.js";
import { commitFolder, writeFlushed } from "./staging.js";

/** A file that was written. */
export interface FileReport {
  name: string;
  bytes: number;
  /** Hash of the bytes that were passed to the disk, not of those that it stored. */
  sha256: string;
}

/** The files that one rank wrote. Plain JSON, which is sent to the rank that commits. */
export interface ShardReport {
  rank: number;
  files: FileReport[];
}

/** The arguments of {@link commit}. */
export interface CommitRequest {
  staging: string;
  /** Folder of the finished checkpoint. */
  folder: string;
  worldSize: number;
  reports: ShardReport[];
  /** Number of unnamed checkpoints to keep. */
  keepLatest: number;
}

/**
 * Commits the staged files of all ranks as a checkpoint: checks that they are complete, writes the manifest, renames
 * the folder to its final name, and removes the oldest unnamed checkpoints beyond `keepLatest`. It runs in the writer
 * thread.
 */
export function commit(request: CommitRequest): void {
  const { staging, folder, keepLatest } = request;
  try {
    writeFlushed(join(staging, MANIFEST_FILE), formatManifest(makeManifest(request)));
    commitFolder(staging, folder);
  } catch (error) {
    rmSync(staging, { recursive: true, force: true });
    throw error;
  }
  tidy(staging, keepLatest);
}

/** Checks that the staged files are complete and consistent, and makes their manifest. */
function makeManifest({ staging, worldSize, reports }: CommitRequest): Manifest {
  const ranks = new Set(reports.map(({ rank }) => rank));
  const missing = Array.from({ length: worldSize }, (_, rank) => rank).filter((rank) => !ranks.has(rank));
  if (missing.length > 0) throw new Error(`rank ${missing.join(", ")} did not report that its part is written`);
  const manifest: Manifest = { format: 2, world: worldSize, files: {}, shards: [], tensors: {} };
  for (const { rank, files } of reports) {
    for (const { name, bytes, sha256 } of files) {
      checkThere(staging, rank, name, bytes, worldSize);
      manifest.files[name] = { bytes, sha256 };
    }
  }
  // Sorted by name, so that the manifest does not depend on the order of the ranks.
  manifest.files = Object.fromEntries(Object.entries(manifest.files).sort(([a], [b]) => (a < b ? -1 : 1)));
  for (const name of Object.keys(manifest.files)) {
    if (name.endsWith(".safetensors") || name === OPTIMIZER_FILE) indexTensors(manifest, join(staging, name), name);
  }
  if (!Object.keys(manifest.files).some(isShardFile)) manifest.world = 1; // replicas: one rank wrote everything
  for (const [name, { shape, slices }] of Object.entries(manifest.tensors)) {
    const problem = coverProblem(
      shape,
      slices.map(([, offset, size]) => ({ shape, offset, size })),
    );
    if (problem) throw new Error(`${name}: ${problem}`);
  }
  return manifest;
}

function checkThere(staging: string, rank: number, name: string, bytes: number, worldSize: number): void {
  const found = statSync(join(staging, name), { throwIfNoEntry: false });
  if (found?.size === bytes) return;
  const what = found ? `has ${found.size} bytes here instead of ${bytes}` : "does not exist here";
  const hint = worldSize > 1 ? ": the run's folder must be on a file system that all processes share" : "";
  throw new Error(`${name}, which rank ${rank} wrote, ${what}${hint}`);
}

/** Adds the tensors of a file to a manifest, from its header. */
function indexTensors({ shards, tensors }: Manifest, path: string, name: string): void {
  const { metadata, infos } = readHeader(path);
  const slices = isShardFile(name) ? (JSON.parse(metadata.slices ?? "{}") as ShardSlices) : undefined;
  shards.push(name);
  for (const [key, { dtype, shape: size }] of infos) {
    const { shape, offset } = slices ? slices[key] : { shape: size, offset: size.map(() => 0) };
    const full = slices ? key : fullName(name === OPTIMIZER_FILE ? "optimizer" : "model", key);
    const tensor: ManifestTensor = { dtype, shape, slices: [] };
    tensors[full] ??= tensor;
    const known = tensors[full];
    if (known.dtype !== tensor.dtype || known.shape.join() !== shape.join()) {
      throw new Error(
        `${full} is ${known.dtype} [${known.shape}] on one rank but ${tensor.dtype} [${shape}] in ${name}`,
      );
    }
    known.slices.push([shards.length - 1, offset, size]);
  }
}

/** The slices of a shard, from its metadata, by full name: the global shape and the offset. */
export type ShardSlices = Record<string, { shape: number[]; offset: number[] }>;

function readHeader(path: string): Header {
  const descriptor = openSync(path, "r");
  try {
    const read = (begin: number, length: number) => readAt(descriptor, length, begin);
    return parseHeader(path, fstatSync(descriptor).size, read);
  } finally {
    closeSync(descriptor);
  }
}

function readAt(descriptor: number, length: number, position: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let done = 0; done < length; ) {
    const read = readSync(descriptor, bytes, done, length - done, position + done);
    if (read === 0) throw new Error("a file is shorter than expected");
    done += read;
  }
  return bytes;
}

/**
 * Removes all but the latest unnamed checkpoints, and staging folders of earlier, cancelled saves. The next commit
 * retries failed removals.
 */
function tidy(staging: string, keepLatest: number): void {
  const folder = dirname(staging);
  const saveOf = (name: string) => Number(/^\..+\.(\d+)\.tmp$/.exec(name)?.[1] ?? Number.POSITIVE_INFINITY);
  try {
    const names = readdirSync(folder);
    const unnamed = names.filter(isStepCheckpoint);
    unnamed.sort((a, b) => Number(a.slice(5)) - Number(b.slice(5)));
    const left = names.filter((name) => saveOf(name) < saveOf(basename(staging)));
    for (const name of [...unnamed.slice(0, -keepLatest), ...left]) {
      rmSync(join(folder, name), { recursive: true, force: true });
    }
  } catch {
    // For example, the folder is read-only.
  }
}
