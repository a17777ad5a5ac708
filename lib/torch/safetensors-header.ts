import { z } from "zod";
import { type DType, dtypes } from "./dtype.js";
import { TorchError } from "./errors.js";

// The header of the safetensors format: eight bytes of length, then the JSON of { name: { dtype, shape, data_offsets }
// }, padded with spaces. The tensors' bytes follow, little-endian and row-major, without gaps.
// https://github.com/huggingface/safetensors

export interface TensorInfo {
  dtype: DType;
  shape: number[];
  /** Position of its first byte in the file. */
  begin: number;
  end: number;
}

export interface Header {
  /** Tensors in the order of their bytes. */
  infos: Map<string, TensorInfo>;
  metadata: Record<string, string>;
}

/** Maximum number of dimensions; more than libtorch's operators support. */
const maxDims = 64;

const metadataSchema = z.record(z.string(), z.string());

// Dtypes in the order of the reference implementation, which writes the last ones first: wider dtypes come first, so
// that every tensor is aligned.
const formatOrder = "BOOL U8 I8 F8_E5M2 F8_E4M3 I16 U16 F16 BF16 I32 U32 F32 F64 I64 U64".split(" ");

const dtypeByFormat = new Map<string, DType>(
  (Object.entries(dtypes) as [DType, (typeof dtypes)[DType]][]).flatMap(([name, facts]) =>
    facts.safetensors ? [[facts.safetensors, name] as const] : [],
  ),
);

/** The reference implementation's limit, in bytes. */
const maxHeader = 100_000_000;

/** Bytes of a tensor; inexact beyond 2^53, where it cannot equal a real length. */
const bytesOf = (dtype: DType, shape: readonly number[]) =>
  shape.reduce((product, size) => product * size, dtypes[dtype].itemSize);

function malformed(path: string, problem: string): TorchError {
  return new TorchError("TORCH_FORMAT", `${path} is not a valid safetensors file: ${problem}`);
}

/**
 * Reads and checks the header of a file of `total` bytes.
 * @param read reads bytes of the file
 * @throws TorchError TORCH_FORMAT
 */
export function parseHeader(path: string, total: number, read: (begin: number, length: number) => Uint8Array): Header {
  if (total < 8) throw malformed(path, `${total} bytes are too short for a header`);
  const prefix = read(0, 8);
  const length = Number(new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true));
  if (length > maxHeader) throw malformed(path, `its header claims ${length} bytes`);
  const data = 8 + length;
  if (data > total) throw malformed(path, `its header of ${length} bytes ends after the file (${total} bytes)`);
  const entries = parseJson(path, read(8, length));
  const infos: [string, TensorInfo][] = [];
  let metadata: Record<string, string> = {};
  for (const [name, value] of entries) {
    if (name === "__metadata__") {
      const parsed = metadataSchema.safeParse(value);
      if (!parsed.success) throw malformed(path, "__metadata__ is not a map of strings");
      metadata = parsed.data;
    } else infos.push([name, parseEntry(path, name, value, data)]);
  }
  infos.sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  checkLayout(path, infos, data, total);
  return { infos: new Map(infos), metadata };
}

function parseJson(path: string, bytes: Uint8Array): [string, unknown][] {
  // Checked before parsing: deep nesting or repeated names could exhaust memory or the stack.
  const written = countKeys(path, bytes);
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch (cause) {
    throw malformed(path, `its header is not valid JSON (${shorten((cause as Error).message)})`);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json))
    throw malformed(path, "its header is not a JSON object");
  const entries = Object.entries(json);
  // JSON.parse silently keeps one of two equal keys.
  if (written !== entries.length) throw malformed(path, `${written - entries.length} names appear more than once`);
  return entries;
}

const [quote, backslash, colon] = ['"', "\\", ":"].map((char) => char.charCodeAt(0));
const opening = new Set(["{", "["].map((char) => char.charCodeAt(0)));
const closing = new Set(["}", "]"].map((char) => char.charCodeAt(0)));

/** Levels: the header, a tensor's entry, its shape. */
const maxDepth = 3;

/** Counts the keys of the outermost JSON object, including repeated ones, by scanning its bytes. */
function countKeys(path: string, json: Uint8Array): number {
  let depth = 0;
  let keys = 0;
  for (let i = 0; i < json.length; i++) {
    const byte = json[i];
    if (byte === quote) {
      for (i++; i < json.length && json[i] !== quote; i++) if (json[i] === backslash) i++;
    } else if (byte === colon) {
      if (depth === 1) keys++;
    } else if (opening.has(byte)) {
      if (++depth > maxDepth) throw malformed(path, `its header nests deeper than ${maxDepth} levels at byte ${i}`);
    } else if (closing.has(byte)) depth--;
  }
  return keys;
}

const shorten = (text: string) => (text.length > 200 ? `${text.slice(0, 200)}…` : text);

const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

function parseEntry(path: string, name: string, value: unknown, data: number): TensorInfo {
  const refuse = (problem: string) => malformed(path, `tensor ${shorten(JSON.stringify(name))} ${problem}`);
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw refuse("is not an object");
  const { dtype: format, shape, data_offsets: offsets } = value as Record<string, unknown>;
  if (typeof format !== "string") throw refuse("has a dtype that is not a string");
  const dtype = dtypeByFormat.get(format);
  if (dtype === undefined) throw refuse(`has the unknown dtype ${shorten(format)}`);
  if (!Array.isArray(shape) || !shape.every(isSize)) throw refuse("has a shape that is not a list of sizes");
  if (shape.length > maxDims) throw refuse(`has ${shape.length} dimensions, more than ${maxDims}`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize))
    throw refuse("has data_offsets that are not two positions");
  const [begin, end] = offsets;
  const bytes = bytesOf(dtype, shape);
  if (end - begin !== bytes) throw refuse(`needs ${bytes} bytes, but its data_offsets span ${end - begin}`);
  return { dtype, shape, begin: data + begin, end: data + end };
}

/** Checks that the tensors fill the file's data without gaps and overlaps. */
function checkLayout(path: string, infos: readonly [string, TensorInfo][], data: number, total: number): void {
  let position = data;
  for (const [name, info] of infos) {
    if (info.begin !== position)
      throw malformed(path, `tensor ${JSON.stringify(name)} starts at byte ${info.begin}, expected ${position}`);
    position = info.end;
  }
  if (position > total)
    throw malformed(path, `it has ${total} bytes, but its header describes ${position}: it may be truncated`);
  if (position < total) throw malformed(path, `it has ${total - position} bytes that its header does not describe`);
}

/** A tensor to write. */
export interface HeaderEntry {
  name: string;
  dtype: DType;
  shape: readonly number[];
}

/**
 * The bytes of the header, preceded by its length, and the entries in the order in which their bytes must follow.
 * @throws TorchError TORCH_TYPE for an unsupported dtype, TORCH_VALUE for an invalid name or invalid metadata
 */
export function buildHeader<E extends HeaderEntry>(
  tensors: readonly E[],
  metadata: Readonly<Record<string, string>>,
): { bytes: Buffer; order: E[] } {
  const rank = new Map<E, number>();
  for (const entry of tensors) {
    const format = dtypes[entry.dtype]?.safetensors;
    if (format === undefined)
      throw new TorchError(
        "TORCH_TYPE",
        `saveSafetensors: ${entry.name}: the format does not support dtype ${entry.dtype}`,
      );
    if (entry.name === "__metadata__")
      throw new TorchError("TORCH_VALUE", "saveSafetensors: a tensor cannot be named __metadata__");
    rank.set(entry, formatOrder.indexOf(format));
  }
  const order = [...tensors].sort(
    (a, b) =>
      (rank.get(b) as number) - (rank.get(a) as number) || Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)),
  );
  const fields: [string, unknown][] = [];
  if (Object.keys(metadata).length > 0) {
    if (!metadataSchema.safeParse(metadata).success)
      throw new TorchError("TORCH_VALUE", "saveSafetensors: metadata must be a map of strings");
    fields.push(["__metadata__", metadata]);
  }
  let offset = 0;
  for (const { name, dtype, shape } of order) {
    const end = offset + bytesOf(dtype, shape);
    fields.push([name, { dtype: dtypes[dtype].safetensors, shape, data_offsets: [offset, end] }]);
    offset = end;
  }
  // Not built as an object, which would sort names that look like integers first.
  const json = Buffer.from(
    `{${fields.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`).join(",")}}`,
  );
  const bytes = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, " ");
  bytes.writeBigUInt64LE(BigInt(bytes.length - 8));
  json.copy(bytes, 8);
  return { bytes, order };
}
