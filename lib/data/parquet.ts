import { readSync } from "node:fs";
import type { JsonItem } from "./json-items.js";

/** Limits for the footer and for one decompressed row group, each of which is in memory as a whole. */
const MAX_METADATA_BYTES = 256 * 2 ** 20;
const MAX_GROUP_BYTES = 2 * 2 ** 30;

/**
 * Yields the rows of a Parquet file as JSON values, one row group at a time. Null fields of a struct are left out,
 * because Arrow writes null for every field that only other rows have.
 *
 * @throws Error if the file is damaged or its footer or a row group exceeds the memory limits
 */
export async function* parquetItems(descriptor: number, byteLength: number): AsyncGenerator<JsonItem, void, void> {
  const { parquetMetadataAsync, parquetReadObjects } = await import("hyparquet"); // loaded only when needed
  const { compressors } = await import("hyparquet-compressors");
  const file = { byteLength, slice: (start: number, end = byteLength) => readBytes(descriptor, start, end) };
  const metadata = await guarded(async () => {
    const length = new DataView(readBytes(descriptor, byteLength - 8, byteLength)).getUint32(0, true);
    if (length > MAX_METADATA_BYTES || length + 12 > byteLength)
      throw new Error(`its footer has an invalid length of ${length} bytes`);
    return await parquetMetadataAsync(file);
  });
  let rowStart = 0;
  for (const group of metadata.row_groups) {
    const bytes = Number(group.total_byte_size);
    if (bytes > MAX_GROUP_BYTES) {
      throw new Error(
        `a row group has ${(bytes / 2 ** 30).toFixed(1)} GiB, the limit is 2 GiB: write the file with smaller row groups`,
      );
    }
    const rowEnd = rowStart + Number(group.num_rows);
    const rows = await guarded(() => parquetReadObjects({ file, metadata, rowStart, rowEnd, compressors }));
    if (rows.length !== rowEnd - rowStart) throw new Error(`it is damaged: rows are missing after row ${rowStart}`);
    for (const [i, row] of rows.entries()) yield { number: rowStart + i + 1, value: toJson(row) };
    rowStart = rowEnd;
  }
}

async function guarded<T>(read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    throw new Error(`its Parquet data is damaged or unsupported (${(cause as Error).message})`, { cause });
  }
}

function readBytes(descriptor: number, start: number, end: number): ArrayBuffer {
  const bytes = new Uint8Array(Math.max(0, end - start));
  for (let got = 0; got < bytes.length; ) {
    const count = readSync(descriptor, bytes, got, bytes.length - got, start + got);
    if (count === 0) throw new Error(`it ends at byte ${start + got}`);
    got += count;
  }
  return bytes.buffer;
}

function toJson(value: unknown): unknown {
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  if (value === undefined || value === null) return null;
  if (typeof value !== "object") return value;
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value)) return value.map(toJson);
  if (ArrayBuffer.isView(value)) return value;
  const entries = Object.entries(value).map(([key, field]) => [key, toJson(field)] as const);
  return Object.fromEntries(entries.filter(([key, field]) => field !== null || key === "content"));
}
