import { asBytes, byteLength, readBytes } from "../torch/bytes.js";
import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import type { WriterJob } from "./writer.js";

/** Size of the pieces, and their number at a time, in which a page-locked copy is sent to the writer. */
const PIECE_BYTES = 8 << 20;
const PIECES = 3;

/** A pool of reusable memory, by size. */
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

  /** Removes and returns all unused memory. */
  drain(): T[] {
    const all = [...this.#free.values()].flat();
    this.#free.clear();
    return all;
  }
}

/** A copy of a tensor's bytes: in a buffer, or in a uint8 tensor in page-locked memory. */
type HostCopy = ArrayBuffer | Tensor;

/**
 * Host memory for snapshots of tensors, which is reused. CPU tensors are copied into buffers that are transferred to
 * the writer thread. Device tensors are copied asynchronously into page-locked memory, with one event for all, and then
 * sent to the writer thread in pieces while training continues.
 */
export class HostMemory {
  readonly #buffers = new Pool((bytes) => new ArrayBuffer(bytes));
  readonly #pinned: Pool<Tensor>;

  /** @param pinned allocates page-locked memory */
  constructor(pinned = (bytes: number) => torch.empty([bytes], { dtype: "uint8", pinMemory: true })) {
    this.#pinned = new Pool((bytes) => torch.keep(pinned(bytes)));
  }

  /** Copies the current values of tensors. They may change once the promise resolves. */
  async snapshot(tensors: readonly Tensor[]): Promise<Snapshot> {
    const copies = torch.scope(() => torch.noGrad(() => tensors.map((tensor) => this.#copy(tensor))));
    const devices = new Set(tensors.map(({ device }) => device).filter((device) => device !== "cpu"));
    for (const device of devices) await reached(device);
    // Different tensors need different sizes, so leftover memory would never be reused.
    this.dispose();
    return new Snapshot(copies, this);
  }

  /** A buffer with room for a piece of a copy. */
  takePiece(): ArrayBuffer {
    return this.#buffers.take(PIECE_BYTES);
  }

  /** Returns memory of {@link snapshot} or {@link takePiece} to the pool. */
  give(memory: HostCopy): void {
    if (memory instanceof ArrayBuffer) this.#buffers.give(memory.byteLength, memory);
    else this.#pinned.give(memory.numel(), memory);
  }

  /** Frees unused memory. */
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

/** Waits, without blocking the event loop, until a device has completed all work queued so far. */
async function reached(device: string): Promise<void> {
  const mark = torch.keep(torch.zeros([1], { device }));
  await mark.toTypedArrayAsync();
  mark.dispose();
}

/** Copies of tensors, in the order of {@link HostMemory.snapshot}'s argument. */
export class Snapshot {
  readonly #copies: (HostCopy | undefined)[];
  readonly #memory: HostMemory;
  /** Pieces that the writer holds, in order. */
  readonly #pieces: Promise<void>[] = [];

  constructor(copies: readonly HostCopy[], memory: HostMemory) {
    this.#copies = [...copies];
    this.#memory = memory;
  }

  /** Sends a copy to the writer and waits for it. Each copy can be sent once. */
  async send(index: number, job: WriterJob): Promise<void> {
    const copy = this.#copies[index];
    if (copy === undefined) throw new Error("this copy was already sent");
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

  /** Releases the copies that were not sent. */
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
