import { createHash } from "node:crypto";
import { createReadStream, existsSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import * as z from "zod";
import { parseJsonText } from "../base/json-text.js";
import { openRegularFile, readTextFile } from "../base/regular-file.js";
import { sliceProblem } from "../distributed/tensor-slice.js";
import { isDType } from "../torch/dtype.js";
import { MANIFEST_FILE } from "./layout.js";
import { isIntactManifest, type Manifest, type ManifestFile, type ManifestTensor } from "./manifest-text.js";

const size = z.int().min(0);
const name = z.string().refine((text) => basename(text) === text, "expected the name of a file in the folder");
const files = z.record(name, z.object({ bytes: size, sha256: z.string() }));
const tensor = z.custom<ManifestTensor>(isTensor, "expected dtype, shape and slices");

const schema = z.union([
  z.object({ format: z.literal(1), files }),
  z.object({
    format: z.literal(2),
    world: z.int().min(1),
    files,
    shards: z.array(name),
    tensors: z.record(z.string(), tensor),
  }),
]);

/** Checks a tensor by hand, because zod takes seconds for thousands of slices. */
function isTensor(value: unknown): boolean {
  const { dtype, shape, slices } = (value ?? {}) as Partial<ManifestTensor>;
  if (!isDType(dtype) || !Array.isArray(shape) || !Array.isArray(slices)) return false;
  return slices.every((slice) => {
    if (!Array.isArray(slice)) return false;
    const [shard, offset, size] = slice;
    const isList = Array.isArray(offset) && Array.isArray(size);
    return Number.isInteger(shard) && shard >= 0 && isList && sliceProblem({ shape, offset, size }) === undefined;
  });
}

/** A parsed manifest. Format 1 has only the list of files, and was written by a single process. */
export type ReadManifest = z.output<typeof schema>;

/** The manifest of a folder; undefined if it has none, an error message if it cannot be used. */
export function readManifest(folder: string): ReadManifest | string | undefined {
  const path = join(folder, MANIFEST_FILE);
  if (!existsSync(path)) return undefined;
  try {
    const text = readTextFile(path);
    const manifest = schema.parse(parseJsonText(text));
    if (manifest.format === 2 && (!isIntactManifest(text) || hasUnknownShard(manifest))) throw new Error("changed");
    return manifest;
  } catch {
    return `${MANIFEST_FILE} is damaged`;
  }
}

function hasUnknownShard({ shards, tensors, files }: Manifest): boolean {
  if (shards.some((shard) => !(shard in files))) return true;
  return Object.values(tensors).some(({ slices }) => slices.some(([shard]) => shard >= shards.length));
}

/** Options of {@link findDamage}. */
export interface DamageOptions {
  /** Hash only these files; sizes are compared for all. */
  files?: readonly string[];
  /** Called after every chunk that was hashed. */
  onProgress?: (progress: { file: string; done: number; total: number }) => void;
}

/**
 * Compares a folder with its manifest.
 *
 * @returns the first problem, undefined if the folder is undamaged. Sizes are compared first, so that a truncated file
 *   is found without reading the others.
 */
export async function findDamage(folder: string, options: DamageOptions = {}): Promise<string | undefined> {
  for await (const problem of damages(folder, options)) return problem;
  return undefined;
}

/**
 * The first missing or truncated file of a folder, according to its manifest; undefined if there is none. No file is
 * read.
 */
export function missingFiles(folder: string): string | undefined {
  const { problems } = compareSizes(folder);
  return problems[0];
}

/** Yields all problems of a folder. */
export async function* damages(folder: string, options: DamageOptions = {}): AsyncGenerator<string, void, void> {
  const { problems, whole } = compareSizes(folder);
  yield* problems;
  const wanted = whole.filter(([name]) => options.files?.includes(name) ?? true);
  const progress = { file: "", done: 0, total: wanted.reduce((sum, [, { bytes }]) => sum + bytes, 0) };
  for (const [name, { sha256 }] of wanted) {
    progress.file = name;
    const hash = await hashFile(join(folder, name), (bytes) => {
      progress.done += bytes;
      options.onProgress?.({ ...progress });
    });
    if (hash !== sha256) yield hash === undefined ? `${name} cannot be read` : `${name} does not match its checksum`;
  }
}

/** Compares file sizes with the manifest. Returns the problems, and the files of the correct size. */
function compareSizes(folder: string): { problems: string[]; whole: [string, ManifestFile][] } {
  const manifest = readManifest(folder);
  if (typeof manifest === "string") return { problems: [manifest], whole: [] };
  if (manifest === undefined) return { problems: [`it has no ${MANIFEST_FILE}`], whole: [] };
  const problems: string[] = [];
  const whole: [string, ManifestFile][] = [];
  for (const [name, file] of Object.entries(manifest.files)) {
    const found = statSync(join(folder, name), { throwIfNoEntry: false });
    if (found?.size === file.bytes) whole.push([name, file]);
    else problems.push(found ? `${name} has ${found.size} bytes instead of ${file.bytes}` : `${name} is missing`);
  }
  return { problems, whole };
}

async function hashFile(path: string, onRead: (bytes: number) => void): Promise<string | undefined> {
  const hash = createHash("sha256");
  try {
    const { descriptor } = openRegularFile(path);
    for await (const chunk of createReadStream(path, { fd: descriptor, highWaterMark: 1 << 20 })) {
      hash.update(chunk as Buffer);
      onRead((chunk as Buffer).length);
    }
  } catch {
    return undefined;
  }
  return hash.digest("hex");
}
