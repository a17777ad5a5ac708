import { asBytes, byteLength, readBytes } from "../torch/bytes.js";
import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import type { WriterJob } from "./writer.js";

/** A copy in page-locked memory is handed to the writer in pieces of this size, so many at a time. */
const PIECE_BYTES = 8 << 20;
const PIECES = 3;

/** Memory that is used again, by its size. */
class Pool<T> {
  readonly #make: (bytes: number) => T;
  readonly #free = new Map<number, T[]>();

  constructor(make: (bytes: number) => T) {
    this.#make = make;
  }

  take(bytes: number): T {
    return this.#free.get(bytes)?.pop() ?? this.#make(bytes);
  }

  give(bytes: number, memory: T): void {
    const free = this.#free.get(bytes);
    if (free) free.push(memory);
    else this.#free.set(bytes, [memory]);
  }

  /** Lets go of what nobody has taken. */
  drain(): T[] {
    const all = [...this.#free.values()].flat();
    this.#free.clear();
    return all;
  }
}

/** A tensor's bytes as they were at one moment: in a buffer, or in a uint8 tensor in page-locked memory. */
type HostCopy = ArrayBuffer | Tensor;

/**
 * Host memory for snapshots of tensors, kept from one to the next. Tensors on the CPU are copied into buffers that the
 * writer's thread takes over as they are. From a device they are copied into page-locked memory without blocking, all
 * behind one event, and from there handed over piece by piece while training goes on.
 */
export class HostMemory {
  readonly #buffers = new Pool((bytes) => new ArrayBuffer(bytes));
  readonly #pinned: Pool<Tensor>;

  /** @param pinned makes page-locked memory */
  constructor(pinned = (bytes: number) => torch.empty([bytes], { dtype: "uint8", pinMemory: true })) {
    this.#pinned = new Pool((bytes) => torch.keep(pinned(bytes)));
  }

  /** Copies tensors as they are now. When the promise resolves, they may change. */
  async snapshot(tensors: readonly Tensor[]): Promise<Snapshot> {
    const copies = torch.scope(() => torch.noGrad(() => tensors.map((tensor) => this.#copy(tensor))));
    const devices = new Set(tensors.map(({ device }) => device).filter((device) => device !== "cpu"));
    for (const device of devices) await reached(device);
    // Other tensors than last time need other sizes: what is left over would never be used again.
    this.dispose();
    return new Snapshot(copies, this);
  }

  /** A buffer with room for a piece of a copy. */
  takePiece(): ArrayBuffer {
    return this.#buffers.take(PIECE_BYTES);
  }

  /** Takes back what {@link snapshot} or {@link takePiece} gave. */
  give(memory: HostCopy): void {
    if (memory instanceof ArrayBuffer) this.#buffers.give(memory.byteLength, memory);
    else this.#pinned.give(memory.numel(), memory);
  }

  /** Frees what is not in use. */
  dispose(): void {
    this.#buffers.drain();
    for (const tensor of this.#pinned.drain()) tensor.dispose();
  }

  #copy(tensor: Tensor): HostCopy {
    const bytes = byteLength(tensor);
    if (tensor.device === "cpu") {
      const buffer = this.#buffers.take(bytes);
      readBytes(tensor, new Uint8Array(buffer));
      return buffer;
    }
    const pinned = this.#pinned.take(bytes);
    pinned.copy_(asBytes(tensor), true);
    return pinned;
  }
}

/** Waits, without blocking the process, until a device has done all that it was given before. */
async function reached(device: string): Promise<void> {
  const mark = torch.keep(torch.zeros([1], { device }));
  await mark.toTypedArrayAsync();
  mark.dispose();
}

/** Copies of tensors, in the order in which they were asked for. */
export class Snapshot {
  readonly #copies: (HostCopy | undefined)[];
  readonly #memory: HostMemory;
  /** Pieces that the writer has, in their order. */
  readonly #pieces: Promise<void>[] = [];

  constructor(copies: readonly HostCopy[], memory: HostMemory) {
    this.#copies = [...copies];
    this.#memory = memory;
  }

  /** Hands a copy to the writer, which may take as long as the writer does. Each can be sent once. */
  async send(index: number, job: WriterJob): Promise<void> {
    const copy = this.#copies[index];
    if (copy === undefined) throw new Error("this copy was sent");
    if (copy instanceof ArrayBuffer) {
      this.#copies[index] = undefined;
      this.#write(new Uint8Array(copy), job).catch(() => {}); // the end of the job rejects, too
      return;
    }
    for (let begin = 0, total = copy.numel(); begin < total; begin += PIECE_BYTES) {
      await this.#sendPiece(copy, begin, Math.min(PIECE_BYTES, total - begin), job);
    }
    this.#copies[index] = undefined;
    this.#memory.give(copy);
  }

  /** Gives back the copies that were not sent. */
  release(): void {
    for (const [index, copy] of this.#copies.entries()) {
      if (copy !== undefined) this.#memory.give(copy);
      this.#copies[index] = undefined;
    }
  }

  async #sendPiece(copy: Tensor, begin: number, length: number, job: WriterJob): Promise<void> {
    while (this.#pieces.length >= PIECES) await this.#pieces.shift();
    if (job.isCancelled) throw new Error("the save was cancelled");
    const piece = this.#memory.takePiece();
    torch.scope(() => readBytes(copy.narrow(0, begin, length), new Uint8Array(piece, 0, length)));
    const written = this.#write(new Uint8Array(piece, 0, length), job);
    written.catch(() => {}); // the next piece that waits for it, and the end of the job, reject
    this.#pieces.push(written);
  }

  /** Hands bytes to the writer, and takes their buffer back. */
  async #write(bytes: Uint8Array<ArrayBuffer>, job: WriterJob): Promise<void> {
    this.#memory.give(await job.write(bytes));
  }
}
