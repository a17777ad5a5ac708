import type { Pending, RingGroup } from "../../../lib/parallel/context/index.js";
import type { Tensor } from "../../../lib/torch/index.js";
import * as torch from "../../../lib/torch/index.js";

// Point-to-point messages between threads, each with tensors of its own: one queue of messages for each ordered pair of
// ranks, in shared memory. What a send writes is there at once; a receive waits.

const SLOTS = 8;
const SLOT_VALUES = 32 * 1024;
const PATIENCE_MS = 30_000;

/** Memory for all queues of up to `size` ranks. */
export function channelMemory(size: number): SharedArrayBuffer {
  return new SharedArrayBuffer(size * size * (16 + SLOTS * SLOT_VALUES * 8));
}

class Channel {
  /** Messages written, messages read. */
  readonly #counts: Int32Array;
  readonly #slots: Float64Array;
  readonly #what: string;
  #asked = 0;

  constructor(memory: SharedArrayBuffer, size: number, source: number, destination: number) {
    const offset = (source * size + destination) * (16 + SLOTS * SLOT_VALUES * 8);
    this.#counts = new Int32Array(memory, offset, 2);
    this.#slots = new Float64Array(memory, offset + 16, SLOTS * SLOT_VALUES);
    this.#what = `rank ${source} to ${destination}`;
  }

  write(values: Float64Array): void {
    if (values.length > SLOT_VALUES) throw new Error(`a message of ${values.length} values`);
    const written = Atomics.load(this.#counts, 0);
    while (written - Atomics.load(this.#counts, 1) === SLOTS) this.#sleep(1, written - SLOTS);
    this.#slots.set(values, (written % SLOTS) * SLOT_VALUES);
    Atomics.add(this.#counts, 0, 1);
    Atomics.notify(this.#counts, 0);
  }

  /** Asks for the next message; the function returned waits for it. */
  read(count: number): () => Float64Array {
    const number = this.#asked++;
    return () => {
      if (Atomics.load(this.#counts, 1) !== number) throw new Error(`${this.#what}: waited for out of order`);
      while (Atomics.load(this.#counts, 0) === number) this.#sleep(0, number);
      const start = (number % SLOTS) * SLOT_VALUES;
      const values = Float64Array.from(this.#slots.subarray(start, start + count));
      Atomics.add(this.#counts, 1, 1);
      Atomics.notify(this.#counts, 1);
      return values;
    };
  }

  #sleep(index: number, value: number): void {
    if (Atomics.wait(this.#counts, index, value, PATIENCE_MS) === "timed-out") throw new Error(`${this.#what}: no one`);
  }
}

const done: Pending = { wait: () => {} };

/** The first `size` of the threads as a group. */
export class ThreadGroup implements RingGroup {
  readonly rank: number;
  readonly size: number;
  readonly #to: Channel[];
  readonly #from: Channel[];

  /** @param channels shared by a thread's groups of every size: messages are counted */
  constructor(rank: number, size: number, channels: { to: Channel[]; from: Channel[] }) {
    this.rank = rank;
    this.size = size;
    this.#to = channels.to;
    this.#from = channels.from;
  }

  static channels(memory: SharedArrayBuffer, rank: number, threads: number): { to: Channel[]; from: Channel[] } {
    const others = Array.from({ length: threads }, (_, other) => other);
    return {
      to: others.map((other) => new Channel(memory, threads, rank, other)),
      from: others.map((other) => new Channel(memory, threads, other, rank)),
    };
  }

  send(tensor: Tensor, destination: number): Pending {
    if (!tensor.isContiguous()) throw new Error("a tensor that is not contiguous");
    this.#to[destination].write(torch.scope(() => tensor.double().toTypedArray() as Float64Array));
    return done;
  }

  recv(tensor: Tensor, source: number): Pending {
    const read = this.#from[source].read(tensor.numel());
    return {
      wait: () => torch.scope(() => void tensor.copy_(torch.tensor(read()).view(tensor.shape))),
    };
  }

  allReduce(tensor: Tensor): Pending {
    const others = Array.from({ length: this.size }, (_, rank) => rank).filter((rank) => rank !== this.rank);
    for (const rank of others) this.send(tensor, rank);
    torch.scope(() => {
      // In the order of the ranks, so that all get the same bits.
      const parts = Array.from({ length: this.size }, (_, rank) => {
        if (rank === this.rank) return tensor.clone();
        const part = torch.emptyLike(tensor);
        this.recv(part, rank).wait();
        return part;
      });
      tensor.copy_(torch.stack(parts).sum([0]));
    });
    return done;
  }
}
