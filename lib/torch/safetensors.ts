import { closeSync, fstatSync, fsyncSync, openSync, renameSync, rmSync } from "node:fs";
import { threadId } from "node:worker_threads";
import { openRegularFile, writeAll } from "../base/regular-file.js";
import { asBytes } from "./bytes.js";
import { type DType, dtypes } from "./dtype.js";
import { asTorchError, TorchError } from "./errors.js";
import { native } from "./native.js";
import { buildHeader, parseHeader, type TensorInfo } from "./safetensors-header.js";
import { scope } from "./scope.js";
import { type Tensor, wrap } from "./tensor.js";

export type { TensorInfo } from "./safetensors-header.js";

// A file that its owner forgot to dispose.
const forgotten = new FinalizationRegistry<OpenFile>((file) => file.close());

/** A file as it was when it was opened. */
class OpenFile {
  readonly path: string;
  readonly size: number;
  readonly #descriptor: number;
  readonly #modified: bigint;
  #closed = false;

  constructor(path: string) {
    this.path = path;
    this.#descriptor = openRegularFile(path).descriptor;
    const { size, mtimeNs } = fstatSync(this.#descriptor, { bigint: true });
    this.size = Number(size);
    this.#modified = mtimeNs;
  }

  /** The bytes from `begin` on as a tensor. Somebody may have written to the file meanwhile: then it holds other ones. */
  tensor(begin: number, dtype: DType, shape: readonly number[]): Tensor {
    if (this.#closed) throw new TorchError("TORCH_DISPOSED", `${this.path}: the file was closed`);
    try {
      for (const [i, size] of shape.entries()) native.scratch[i] = size;
      const tensor = wrap(native.readFile(this.#descriptor, begin, dtypes[dtype].code, shape.length));
      const { size, mtimeNs } = fstatSync(this.#descriptor, { bigint: true });
      if (Number(size) === this.size && mtimeNs === this.#modified) return tensor;
      tensor.dispose();
      throw new TorchError(
        "TORCH_IO",
        `${this.path} was written to while it was open: it had ${this.size} bytes and has ${size}`,
      );
    } catch (error) {
      throw asTorchError(error, this.path);
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#descriptor);
  }
}

/** An open safetensors file: a tensor's bytes are read when it is asked for. */
export class SafetensorsFile implements Disposable {
  readonly path: string;
  readonly metadata: Record<string, string>;
  readonly #infos: Map<string, TensorInfo>;
  readonly #file: OpenFile;

  /** For {@link openSafetensors}. */
  constructor(file: OpenFile, infos: Map<string, TensorInfo>, metadata: Record<string, string>) {
    this.path = file.path;
    this.#file = file;
    this.#infos = infos;
    this.metadata = metadata;
    forgotten.register(this, file, this);
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

  /**
   * Reads a tensor, to the CPU. Each call reads it anew, into memory of its own.
   * @throws TorchError TORCH_IO when the file was written to or cut since it was opened, TORCH_DISPOSED when it was closed
   */
  get(name: string): Tensor {
    const { dtype, shape, begin } = this.info(name);
    return this.#file.tensor(begin, dtype, shape);
  }

  /** Closes the file. Tensors taken from it stay valid. */
  dispose(): void {
    forgotten.unregister(this);
    this.#file.close();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Opens a safetensors file, checking the header against the file's length: a truncated or overlapping one is refused.
 * @throws TorchError TORCH_FORMAT, or TORCH_IO when the file cannot be read
 */
export function openSafetensors(path: string): SafetensorsFile {
  let file: OpenFile;
  try {
    file = new OpenFile(path);
  } catch (error) {
    throw new TorchError("TORCH_IO", `openSafetensors: ${path}: ${(error as Error).message}`, {
      operator: "openSafetensors",
      cause: error,
    });
  }
  try {
    const opened = file;
    const read = (begin: number, length: number) =>
      scope(() => opened.tensor(begin, "uint8", [length]).toTypedArray() as Uint8Array);
    const { infos, metadata } = parseHeader(path, file.size, read);
    return new SafetensorsFile(file, infos, metadata);
  } catch (error) {
    file.close();
    throw error;
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
    const flat = asBytes(tensor.detach().to("cpu"));
    const total = flat.numel();
    for (let begin = 0; begin < total; begin += writeChunk) {
      const length = Math.min(writeChunk, total - begin);
      scope(() => writeAll(fd, flat.narrow(0, begin, length).toTypedArray() as Uint8Array));
    }
  });
}
