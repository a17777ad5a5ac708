import { closeSync } from "node:fs";
import { openRegularFile } from "../base/regular-file.js";
import { readChunks, unpacked } from "./byte-stream.js";
import { DataError } from "./errors.js";
import { formatOf, refuseFormat } from "./file-format.js";
import { hasExtension, listFiles } from "./file-walk.js";
import { type JsonItem, jsonItems } from "./json-items.js";
import { parquetItems } from "./parquet.js";

/** A record with its name for messages: "file#3" is the third line, element or row of the file. */
export interface NamedRecord {
  readonly name: string;
  readonly value: unknown;
}

/** Extensions of files of records. */
export const RECORD_EXTENSIONS: readonly string[] = [
  ...[".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".json.gz"],
  ...[".jsonl.zst", ".ndjson.zst", ".json.zst", ".parquet"],
];

/**
 * Whether a file holds records: by RECORD_EXTENSIONS, or `.json`, which is not taken from folders because it may be
 * anything.
 */
export function isRecordFile(name: string): boolean {
  return hasExtension(name, RECORD_EXTENSIONS) || hasExtension(name, [".json"]);
}

/**
 * Yields the records of files, and of all files of records in folders: JSON lines and JSON lists, optionally compressed
 * with gzip or zstd, and Parquet.
 *
 * @throws DataError DATA_NOT_FOUND, DATA_EMPTY if there is no such file, DATA_FILE for a file that cannot be read,
 *   DATA_FORMAT for an unsupported format
 */
export async function* readRecords(paths: readonly string[]): AsyncGenerator<NamedRecord, void, void> {
  const listings = paths.map((path) => listFiles({ path }, [...RECORD_EXTENSIONS, ".json"]));
  const files = listings.flatMap((listing) => listing.files);
  const [unreadable] = listings.flatMap((listing) => listing.unreadable);
  if (unreadable !== undefined) throw new DataError("DATA_FILE", `cannot read ${unreadable} in ${paths.join(", ")}`);
  if (files.length === 0) {
    const others = [...new Set(listings.flatMap((listing) => Object.keys(listing.otherExtensions)))];
    const beside = others.length > 0 ? ` (its files end in ${others.slice(0, 8).join(" ")})` : "";
    const wanted = [...RECORD_EXTENSIONS, ".json"].join(" ");
    throw new DataError(
      "DATA_EMPTY",
      `no file of records found in ${paths.join(", ") || "no path"}${beside}: expected ${wanted}`,
    );
  }
  for (const file of files) {
    for await (const { number, value } of recordItems(file.path)) yield { name: `${file.name}#${number}`, value };
  }
}

/**
 * Yields the records of one file. The first bytes determine its format.
 *
 * @throws DataError DATA_FILE, DATA_FORMAT
 */
export async function* recordItems(path: string): AsyncGenerator<JsonItem, void, void> {
  let descriptor: number | undefined;
  try {
    const opened = openRegularFile(path);
    descriptor = opened.descriptor;
    const format = formatOf(path, descriptor);
    if (format === "parquet") yield* parquetItems(descriptor, opened.stats.size);
    else if (format === "text" || format === "gzip" || format === "zstd") {
      const bytes = unpacked(readChunks(descriptor, opened.stats), path, format);
      yield* jsonItems(bytes, path);
    } else throw refuseFormat(path, format);
  } catch (cause) {
    const isOwn = cause instanceof Error && typeof (cause as { code?: unknown }).code === "string";
    if (isOwn && cause instanceof DataError) throw cause;
    throw new DataError("DATA_FILE", `cannot read ${path}: ${(cause as Error).message}`, { cause });
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}
