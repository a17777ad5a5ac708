import { readSync } from "node:fs";
import { extname } from "node:path";
import { utf8Problem } from "../base/regular-file.js";
import { DataError } from "./errors.js";

/** Format of a file. The names of unsupported formats are used in messages. */
export type FileFormat = "text" | "gzip" | "zstd" | "parquet" | Unread;

type Unread = (typeof SIGNATURES)[number][0] | "CSV" | "TSV" | "UTF-16 text" | "binary data";

const HEAD_BYTES = 64 * 1024;

/** Signatures of common unsupported formats: name, offset, bytes. */
const SIGNATURES = [
  ["an Arrow file", 0, "ARROW1"],
  ["an Arrow stream", 0, "\xff\xff\xff\xff"],
  ["a Feather file", 0, "FEA1"],
  ["a zip archive (or a spreadsheet, or a PyTorch file)", 0, "PK\x03\x04"],
  ["a tar archive", 257, "ustar"],
  ["an xz archive", 0, "\xfd7zXZ\0"],
  ["a bzip2 archive", 0, "BZh"],
  ["a 7z archive", 0, "7z\xbc\xaf\x27\x1c"],
  ["an LZ4 archive", 0, "\x04\x22\x4d\x18"],
  ["a HDF5 file", 0, "\x89HDF"],
  ["a SQLite database", 0, "SQLite format 3\0"],
  ["an Avro file", 0, "Obj\x01"],
  ["an ORC file", 0, "ORC"],
  ["a NumPy array", 0, "\x93NUMPY"],
  ["a PDF", 0, "%PDF-"],
] as const;

/** The format of an open file, by its name for CSV and TSV, else by its first bytes. */
export function formatOf(path: string, descriptor: number): FileFormat {
  const head = Buffer.alloc(HEAD_BYTES);
  const count = readSync(descriptor, head, 0, HEAD_BYTES, 0);
  const format = formatOfBytes(path, head.subarray(0, count));
  if (format === "CSV" || format === "TSV") throw refuseFormat(path, format, head.subarray(0, count));
  return format;
}

/** {@link formatOf} for the first decompressed bytes of a compressed file. */
export function formatOfBytes(path: string, head: Uint8Array): FileFormat {
  const latin = Buffer.from(head.buffer, head.byteOffset, Math.min(head.length, 1024)).toString("latin1");
  if (latin.startsWith("PAR1")) return "parquet";
  if (latin.startsWith("\x1f\x8b")) return "gzip";
  if (latin.startsWith("\x28\xb5\x2f\xfd") || (/^[P-_]/.test(latin) && latin.startsWith("*M\x18", 1))) return "zstd";
  if (latin.startsWith("\xff\xfe") || latin.startsWith("\xfe\xff")) return "UTF-16 text";
  // A text may also start with "ORC".
  const isBinary = latin.startsWith("%PDF-") || head.subarray(0, 1024).some((byte) => byte < 0x09 || byte >= 0x80);
  if (isBinary) for (const [name, offset, bytes] of SIGNATURES) if (latin.startsWith(bytes, offset)) return name;
  if (latin.includes("\0")) return "binary data";
  const extension = extname(path).toLowerCase();
  if (extension === ".csv") return "CSV";
  if (extension === ".tsv") return "TSV";
  return "text";
}

/** @param head the first bytes, from which the columns of a table are listed */
export function refuseFormat(path: string, format: FileFormat, head?: Uint8Array): DataError {
  if (format === "UTF-16 text" && head === undefined) {
    return new DataError("DATA_FILE", `cannot read ${path}: it is UTF-16 text, expected UTF-8`);
  }
  const problem = format === "UTF-16 text" && head ? utf8Problem(head) : undefined;
  if (problem !== undefined) return new DataError("DATA_FILE", `cannot read ${path}: ${problem}`);
  const columns = head && (format === "CSV" || format === "TSV") ? columnsOf(head, format) : [];
  const found = columns.length > 0 ? ` with the columns ${columns.join(", ")}` : "";
  const what = format === "CSV" || format === "TSV" ? `a ${format} table${found}` : format;
  const hint = "convert it to JSON lines, a JSON list (both also as .gz or .zst) or Parquet";
  return new DataError("DATA_FORMAT", `${path} is ${what}; ${hint}`);
}

function columnsOf(head: Uint8Array, format: "CSV" | "TSV"): string[] {
  const line = Buffer.from(head)
    .toString("utf8")
    .replace(/^\ufeff/, "")
    .split(/\r?\n/, 1)[0]
    .slice(0, 2000);
  const cells = line.match(format === "CSV" ? /"(?:[^"]|"")*"|[^,]+/g : /[^\t]+/g) ?? [];
  return cells.slice(0, 20).map((cell) => cell.replace(/^"|"$/g, "").trim().slice(0, 60));
}
