import { createHash } from "node:crypto";
import type { DType } from "../torch/index.js";

// Imports only Node modules, because the thread that writes checkpoints does not load the addon.

/** A file of a checkpoint. */
export interface ManifestFile {
  bytes: number;
  sha256: string;
}

/** A tensor of a checkpoint. */
export interface ManifestTensor {
  dtype: DType;
  shape: number[];
  /** Its slices: index into `shards`, offset and size. */
  slices: [shard: number, offset: number[], size: number[]][];
}

/** Content of manifest.json, in format 2. */
export interface Manifest {
  format: 2;
  /** Number of processes that wrote the checkpoint. */
  world: number;
  files: Record<string, ManifestFile>;
  /** The files with tensors. */
  shards: string[];
  /** By full name, `model/...` or `optimizer/...`. */
  tensors: Record<string, ManifestTensor>;
}

const CHECKSUM = '  "sha256": "';

/** The text of manifest.json: JSON with one line per file and tensor, followed by the SHA-256 of the preceding text. */
export function formatManifest({ format, world, files, shards, tensors }: Manifest): string {
  const section = (entries: [string, unknown][]) =>
    entries.map(([name, value]) => `\n    ${JSON.stringify(name)}: ${JSON.stringify(value)}`).join(",");
  const text = [
    "{",
    `  "format": ${format},`,
    `  "world": ${world},`,
    `  "files": {${section(Object.entries(files))}\n  },`,
    `  "shards": [${shards.map((name) => `\n    ${JSON.stringify(name)}`).join(",")}\n  ],`,
    `  "tensors": {${section(Object.entries(tensors))}\n  },\n`,
  ].join("\n");
  return `${text}${CHECKSUM}${checksum(text)}"\n}\n`;
}

/** Whether the checksum of a manifest's text is correct. */
export function isIntactManifest(text: string): boolean {
  const at = text.lastIndexOf(CHECKSUM);
  return at >= 0 && text.slice(at) === `${CHECKSUM}${checksum(text.slice(0, at))}"\n}\n`;
}

function checksum(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
