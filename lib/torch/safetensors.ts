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

// Closes files that were not disposed.
const forgotten = new FinalizationRegistry<OpenFile>((file) => file.close());

/** An open file, with its state at the time of opening. */
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

  /** Reads a tensor at `begin`. Throws if the file was modified since it was opened. */
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
        `${this.path} was modified while it was open: it had ${this.size} bytes and now has ${size}`,
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

/** An open safetensors file. The bytes of a tensor are read on demand. */
export class SafetensorsFile implements Disposable {
  readonly path: string;
  readonly metadata: Record<string, string>;
  readonly #infos: Map<string, TensorInfo>;
  readonly #file: OpenFile;

  /** Used by {@link openSafetensors}. */
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
   * Reads a tensor to the CPU. Each call reads it again, into new memory.
   * @throws TorchError TORCH_IO if the file was modified or truncated since it was opened, TORCH_DISPOSED if it was
   *   closed
   */
  get(name: string): Tensor {
    const { dtype, shape, begin } = this.info(name);
    return this.#file.tensor(begin, dtype, shape);
  }

  /** Closes the file. Tensors read from it stay valid. */
  dispose(): void {
    forgotten.unregister(this);
    this.#file.close();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Opens a safetensors file and checks its header: truncated files and overlapping tensors are rejected.
 * @throws TorchError TORCH_FORMAT, or TORCH_IO if the file cannot be read
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
 * Writes tensors to a safetensors file, from any device; the bytes are those of Python's safetensors. The write is
 * atomic: the bytes go to a temporary file that is then renamed, so an existing file is kept if the disk is full or the
 * process dies.
 * @throws TorchError TORCH_IO if it cannot be written, TORCH_TYPE for an unsupported dtype
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
