import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { z } from "zod";
import { type DType, dtypes, toDType } from "./dtype.js";
import { guard, TorchError } from "./errors.js";
import { native } from "./native.js";
import { keep, scope } from "./scope.js";
import { Tensor } from "./tensor.js";

// The safetensors format: eight bytes of header length, a JSON header of { name: { dtype, shape, data_offsets } }, then
// the tensors' bytes, little-endian and row-major. https://github.com/huggingface/safetensors

const size = z.number().int().nonnegative();
const entrySchema = z.object({ dtype: z.string(), shape: z.array(size), data_offsets: z.tuple([size, size]) });
const headerSchema = z.record(z.string(), z.unknown());
const metadataSchema = z.record(z.string(), z.string());

const dtypeByFormat = new Map<string, DType>(
  (Object.entries(dtypes) as [DType, (typeof dtypes)[DType]][]).flatMap(([name, facts]) =>
    facts.safetensors ? [[facts.safetensors, name] as const] : [],
  ),
);

const maxHeader = 100_000_000; // the reference implementation's limit

export interface TensorInfo {
  dtype: DType;
  shape: number[];
  /** Where its bytes lie in the file. */
  begin: number;
  end: number;
}

/** An open, memory-mapped safetensors file: bytes are read from disk when a tensor is used. */
export class SafetensorsFile implements Disposable {
  readonly path: string;
  readonly metadata: Record<string, string>;
  readonly #infos: Map<string, TensorInfo>;
  readonly #bytes: Tensor;

  /** For {@link openSafetensors}. */
  constructor(path: string, bytes: Tensor, infos: Map<string, TensorInfo>, metadata: Record<string, string>) {
    this.path = path;
    this.#bytes = bytes;
    this.#infos = infos;
    this.metadata = metadata;
  }

  /** The tensors' names, in the header's order. */
  keys(): string[] {
    return [...this.#infos.keys()];
  }

  has(name: string): boolean {
    return this.#infos.has(name);
  }

  info(name: string): TensorInfo {
    const info = this.#infos.get(name);
    if (info === undefined) throw new TorchError("TORCH_FORMAT", `${this.path} has no tensor ${JSON.stringify(name)}`);
    return info;
  }

  /** The tensor over the mapped file, on the CPU. Writing to it changes this process's copy, never the file. */
  get(name: string): Tensor {
    const { dtype, shape, begin, end } = this.info(name);
    return scope(() => {
      let bytes = this.#bytes.narrow(0, begin, end - begin);
      // A view in a wider dtype needs an aligned start; the format does not promise one.
      if (begin % dtypes[dtype].itemSize !== 0) bytes = bytes.clone();
      return viewAs(bytes, dtype).view(shape);
    });
  }

  /** Closes the file. Tensors taken from it stay valid. */
  dispose(): void {
    this.#bytes.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

let viewDtype: number | undefined;

/** The same bytes read as another dtype: torch.Tensor.view(dtype). */
function viewAs(tensor: Tensor, dtype: DType): Tensor {
  viewDtype ??= native.overloads("aten::view").find((overload) => overload.overload === "dtype")?.id as number;
  const id = viewDtype;
  return guard("view", () => new Tensor(native.call(id, tensor.handle, dtype) as number));
}

function malformed(path: string, problem: string): TorchError {
  return new TorchError("TORCH_FORMAT", `${path} is not a whole safetensors file: ${problem}`);
}

/**
 * Opens a safetensors file, checking the header against the file's length: a truncated or overlapping one is refused.
 * @throws TorchError TORCH_FORMAT, or TORCH_IO when the file cannot be read
 */
export function openSafetensors(path: string): SafetensorsFile {
  const { bytes, infos, metadata } = scope(() => {
    const bytes = guard("openSafetensors", () => new Tensor(native.mapFile(path)));
    return { bytes, ...readHeader(path, bytes) };
  });
  return new SafetensorsFile(path, keep(bytes), infos, metadata);
}

function readHeader(path: string, bytes: Tensor): { infos: Map<string, TensorInfo>; metadata: Record<string, string> } {
  const total = bytes.numel();
  if (total < 8) throw malformed(path, `${total} bytes are too few for a header`);
  const read = (begin: number, length: number) => bytes.narrow(0, begin, length).toTypedArray() as Uint8Array;
  const length = Number(new DataView(read(0, 8).buffer).getBigUint64(0, true));
  if (length > maxHeader) throw malformed(path, `its header claims ${length} bytes`);
  const data = 8 + length;
  if (data > total) throw malformed(path, `its header of ${length} bytes ends after the file (${total} bytes)`);
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(read(8, length)));
  } catch (cause) {
    throw malformed(path, `its header is no JSON (${(cause as Error).message})`);
  }
  const header = headerSchema.safeParse(json);
  if (!header.success) throw malformed(path, "its header is no JSON object");
  const infos = new Map<string, TensorInfo>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(header.data)) {
    if (name === "__metadata__") {
      const parsed = metadataSchema.safeParse(value);
      if (!parsed.success) throw malformed(path, "__metadata__ is no map of strings");
      metadata = parsed.data;
    } else infos.set(name, readEntry(path, name, value, data));
  }
  checkLayout(path, infos, data, total);
  return { infos, metadata };
}

function readEntry(path: string, name: string, value: unknown, data: number): TensorInfo {
  const entry = entrySchema.safeParse(value);
  if (!entry.success) throw malformed(path, `tensor ${JSON.stringify(name)}: ${z.prettifyError(entry.error)}`);
  const dtype = dtypeByFormat.get(entry.data.dtype);
  if (dtype === undefined) throw malformed(path, `tensor ${JSON.stringify(name)} has the unknown dtype ${entry.data.dtype}`);
  const [begin, end] = entry.data.data_offsets;
  const bytes = entry.data.shape.reduce((product, size) => product * size, dtypes[dtype].itemSize);
  if (end - begin !== bytes)
    throw malformed(path, `tensor ${JSON.stringify(name)} of ${bytes} bytes lies in ${end - begin}`);
  return { dtype, shape: entry.data.shape, begin: data + begin, end: data + end };
}

/** The tensors must fill the file's data without holes and overlaps. */
function checkLayout(path: string, infos: Map<string, TensorInfo>, data: number, total: number): void {
  let position = data;
  const sorted = [...infos].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  for (const [name, info] of sorted) {
    if (info.begin !== position) throw malformed(path, `tensor ${JSON.stringify(name)} starts at byte ${info.begin}, not ${position}`);
    position = info.end;
  }
  if (position > total) throw malformed(path, `it has ${total} bytes of the ${position} that its header describes: truncated?`);
  if (position < total) throw malformed(path, `it has ${total - position} bytes that its header does not describe`);
}

const writeChunk = 64 * 1024 * 1024;

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let offset = 0; offset < bytes.length; ) offset += writeSync(fd, bytes, offset);
}

/**
 * Writes tensors to a safetensors file, from any device. The file appears whole or not at all: it is written beside its
 * place and renamed, so an earlier file stays when the disk is full or the process dies.
 */
export function saveSafetensors(
  path: string,
  tensors: Readonly<Record<string, Tensor>>,
  metadata: Readonly<Record<string, string>> = {},
): void {
  // Wider dtypes first, as the reference implementation does, so that every tensor is aligned.
  const entries = Object.entries(tensors).map(([name, tensor]) => ({ name, tensor, dtype: tensor.dtype, shape: tensor.shape }));
  entries.sort((a, b) => dtypes[b.dtype].itemSize - dtypes[a.dtype].itemSize || (a.name < b.name ? -1 : 1));
  const header: Record<string, unknown> = {};
  if (Object.keys(metadata).length > 0) header.__metadata__ = metadata;
  let offset = 0;
  for (const { name, dtype, shape } of entries) {
    const format = dtypes[toDType(dtype)].safetensors;
    if (format === undefined) throw new TorchError("TORCH_TYPE", `saveSafetensors: ${name}: the format has no dtype for ${dtype}`);
    const bytes = shape.reduce((product, size) => product * size, dtypes[dtype].itemSize);
    header[name] = { dtype: format, shape, data_offsets: [offset, offset + bytes] };
    offset += bytes;
  }
  const json = Buffer.from(JSON.stringify(header));
  const padded = Buffer.alloc(Math.ceil(json.length / 8) * 8, " ");
  json.copy(padded);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  const temporary = `${path}.${process.pid}.tmp`;
  let fd: number | undefined;
  try {
    fd = openSync(temporary, "w");
    writeAll(fd, length);
    writeAll(fd, padded);
    for (const { tensor } of entries) writeTensor(fd, tensor);
    fsyncSync(fd);
    closeSync(fd);
    fd = undefined;
    renameSync(temporary, path);
  } catch (error) {
    if (fd !== undefined) closeSync(fd);
    rmSync(temporary, { force: true });
    throw error;
  }
}

function writeTensor(fd: number, tensor: Tensor): void {
  scope(() => {
    if (tensor.numel() === 0) return;
    const flat = viewAs(tensor.detach().to("cpu").contiguous().view([-1]), "uint8");
    const total = flat.numel();
    for (let begin = 0; begin < total; begin += writeChunk) {
      scope(() => writeAll(fd, flat.narrow(0, begin, Math.min(writeChunk, total - begin)).toTypedArray() as Uint8Array));
    }
  });
}
