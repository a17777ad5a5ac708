import { closeSync, fsyncSync, openSync, renameSync, rmSync } from "node:fs";
import { threadId } from "node:worker_threads";
import { openRegularFile } from "../files/regular-file.js";
import { type DType, dtypes } from "./dtype.js";
import { guard, TorchError } from "./errors.js";
import { native } from "./native.js";
import { buildHeader, parseHeader, type TensorInfo } from "./safetensors-header.js";
import { keep, scope } from "./scope.js";
import { Tensor } from "./tensor.js";
import { writeAll } from "./write-all.js";

export type { TensorInfo } from "./safetensors-header.js";

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

  /** The tensors' names, in the order of their bytes. */
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
  return guard("view", () => new Tensor(native.call(id, tensor.handle, dtypes[dtype].code) as number));
}

/**
 * Opens a safetensors file, checking the header against the file's length: a truncated or overlapping one is refused.
 * The file must not shrink while it is open, as with any memory map.
 * @throws TorchError TORCH_FORMAT, or TORCH_IO when the file cannot be read
 */
export function openSafetensors(path: string): SafetensorsFile {
  return scope(() => {
    requireRegularFile(path);
    const bytes = guard("openSafetensors", () => new Tensor(native.mapFile(path)));
    const read = (begin: number, length: number) => bytes.narrow(0, begin, length).toTypedArray() as Uint8Array;
    const { infos, metadata } = parseHeader(path, bytes.numel(), read);
    return new SafetensorsFile(path, keep(bytes), infos, metadata);
  });
}

function requireRegularFile(path: string): void {
  try {
    closeSync(openRegularFile(path).descriptor);
  } catch (cause) {
    throw new TorchError("TORCH_IO", `openSafetensors: ${path}: ${(cause as Error).message}`, { cause });
  }
}

const writeChunk = 64 * 1024 * 1024;

/**
 * Writes tensors to a safetensors file, from any device; the bytes are those of Python's safetensors. The file appears
 * whole or not at all: it is written beside its place and renamed, so an earlier file stays when the disk is full or the
 * process dies.
 * @throws TorchError TORCH_IO when it cannot be written, TORCH_TYPE for a dtype that the format lacks
 */
export function saveSafetensors(
  path: string,
  tensors: Readonly<Record<string, Tensor>>,
  metadata: Readonly<Record<string, string>> = {},
): void {
  const entries = Object.entries(tensors).map(([name, tensor]) => ({
    name,
    tensor,
    dtype: tensor.dtype,
    shape: tensor.shape,
  }));
  const { bytes, order } = buildHeader(entries, metadata);
  const temporary = `${path}.${process.pid}-${threadId}.tmp`;
  let fd: number | undefined;
  try {
    fd = openSync(temporary, "w");
    writeAll(fd, bytes);
    for (const { tensor } of order) writeTensor(fd, tensor);
    fsyncSync(fd);
    closeSync(fd);
    fd = undefined;
    renameSync(temporary, path);
  } catch (error) {
    if (fd !== undefined) closeSync(fd);
    rmSync(temporary, { force: true });
    if (error instanceof TorchError) throw error;
    throw new TorchError("TORCH_IO", `saveSafetensors: ${path}: ${(error as Error).message}`, { cause: error });
  }
}

function writeTensor(fd: number, tensor: Tensor): void {
  scope(() => {
    if (tensor.numel() === 0) return;
    const flat = viewAs(tensor.detach().to("cpu").contiguous().view([-1]), "uint8");
    const total = flat.numel();
    for (let begin = 0; begin < total; begin += writeChunk) {
      const length = Math.min(writeChunk, total - begin);
      scope(() => writeAll(fd, flat.narrow(0, begin, length).toTypedArray() as Uint8Array));
    }
  });
}
