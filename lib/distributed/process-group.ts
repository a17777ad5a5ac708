import { byteLength } from "../torch/bytes.js";
import * as torch from "../torch/index.js";
import { DistributedError } from "./errors.js";
import { asDistributedError, guarded, guardedAsync } from "./failure.js";
import { c10d, type NativeId } from "./native.js";
import { DEFAULT_TIMEOUT, PrefixStore, type Store } from "./store.js";
import { communication, Work } from "./work.js";

export type Backend = "gloo" | "nccl";
export type ReduceOperation = "sum" | "avg" | "product" | "min" | "max" | "band" | "bor" | "bxor";

type Tensor = torch.Tensor;

export interface ProcessGroupOptions {
  backend?: Backend;
  /** Timeout of every collective, in seconds. */
  timeout?: number;
  /** Name of the group: the same in all members, and not used before in this store. Default "world". */
  name?: string;
  /** The members' ranks in the world; default 0 .. size - 1. */
  ranks?: readonly number[];
  /** The group's CUDA device, for barriers. */
  device?: string;
}

/**
 * A group of processes that communicate: torch.distributed.ProcessGroup, with Gloo for CPU tensors and NCCL for CUDA.
 * Ranks in all calls are ranks within the group. Tensors must be contiguous, and all members must call the same
 * collectives in the same order.
 *
 * Every collective returns a {@link Work}: `group.allReduce(x).wait()` or `await group.allReduce(x)`.
 */
export class ProcessGroup {
  readonly rank: number;
  readonly size: number;
  readonly backend: Backend;
  readonly name: string;
  /** The members' ranks in the world, in the order of their ranks in this group. */
  readonly ranks: readonly number[];
  readonly #store: Store;
  readonly #device: string | undefined;
  readonly #subgroups = new Map<string, number>();
  #timeout: number;
  #id: NativeId;

  private constructor(id: NativeId, store: Store, rank: number, size: number, options: Required<ProcessGroupOptions>) {
    this.#id = id;
    this.#store = store;
    this.rank = rank;
    this.size = size;
    this.backend = options.backend;
    this.name = options.name;
    this.ranks = options.ranks;
    this.#timeout = options.timeout;
    this.#device = options.device || undefined;
  }

  /**
   * Creates a group with the other members and waits for them.
   *
   * @throws DistributedError DISTRIBUTED_TIMEOUT naming the members that did not arrive
   */
  static async create(
    store: Store,
    rank: number,
    size: number,
    options: ProcessGroupOptions = {},
  ): Promise<ProcessGroup> {
    const { backend = "gloo", timeout = DEFAULT_TIMEOUT, name = "world", device = "" } = options;
    const ranks = options.ranks ?? Array.from({ length: size }, (_, i) => i);
    if (!Number.isInteger(size) || size < 1 || !Number.isInteger(rank) || rank < 0 || rank >= size) {
      throw new DistributedError("DISTRIBUTED_ARGUMENT", `group '${name}': rank ${rank} of ${size}`);
    }
    if (backend === "nccl" && !c10d.hasNccl()) {
      throw new DistributedError(
        "DISTRIBUTED_ARGUMENT",
        "NCCL needs a CUDA build of libtorch, but this is a CPU build",
      );
    }
    const own = new PrefixStore(`group/${name}`, store);
    const what = `joining group '${name}' as rank ${rank} of ${size}`;
    const keys = ranks.map((_, i) => `joined/${i}`);
    try {
      own.set(keys[rank], "1");
      // NCCL connects only in its first collective, which would then wait forever.
      await own.wait(keys, timeout);
      const id = await c10d.createGroup(backend, own.id, rank, size, timeout, name);
      return new ProcessGroup(id, own, rank, size, { backend, timeout, name, ranks, device });
    } catch (error) {
      const missing = missingOf(own, keys, ranks);
      own.dispose();
      if (missing.length === 0) throw asDistributedError(error, what);
      const who = `${missing.length === 1 ? "rank" : "ranks"} ${missing.join(", ")} of ${size}`;
      const message = `${what}: ${who} did not arrive within ${timeout} s`;
      throw new DistributedError("DISTRIBUTED_TIMEOUT", message, { cause: error });
    }
  }

  /** Internal: the group's handle in the addon. */
  get id(): NativeId {
    if (this.#id === 0) {
      throw new DistributedError("DISTRIBUTED_STATE", `the process group '${this.name}' was destroyed`);
    }
    return this.#id;
  }

  /** Timeout of collectives, in seconds. */
  get timeout(): number {
    return this.#timeout;
  }

  set timeout(seconds: number) {
    guarded("ProcessGroup.timeout", () => c10d.setGroupTimeout(this.id, seconds));
    this.#timeout = seconds;
  }

  /**
   * Creates a group of some of this one's members. Exactly these members call it, with the same list.
   *
   * @param ranks ranks in this group; this process's own must be among them
   */
  async subgroup(ranks: readonly number[], options: { backend?: Backend; name?: string } = {}): Promise<ProcessGroup> {
    const rank = ranks.indexOf(this.rank);
    if (rank < 0 || new Set(ranks).size !== ranks.length || ranks.some((r) => !(r >= 0 && r < this.size))) {
      const message = `subgroup [${ranks}]: expected distinct ranks below ${this.size} that include this one, ${this.rank}`;
      throw new DistributedError("DISTRIBUTED_ARGUMENT", message);
    }
    const key = `${options.name ?? ""}[${ranks.join(",")}]`;
    const count = this.#subgroups.get(key) ?? 0;
    this.#subgroups.set(key, count + 1);
    return await ProcessGroup.create(this.#store, rank, ranks.length, {
      backend: options.backend ?? this.backend,
      timeout: this.#timeout,
      name: count === 0 ? key : `${key}#${count}`,
      ranks: ranks.map((r) => this.ranks[r]),
      device: this.#device,
    });
  }

  /** Reduces one tensor, or several of the same dtype, in place on all members. */
  allReduce(tensors: Tensor | readonly Tensor[], { op = "sum" }: { op?: ReduceOperation } = {}): Work {
    const list: readonly Tensor[] = tensors instanceof torch.Tensor ? [tensors] : tensors;
    this.#checkDtypes("allReduce", list, op);
    return this.#start("allReduce", 2 * this.#share(bytesOf(list)), (id) =>
      c10d.allReduce(
        id,
        list.map(({ handle }) => handle),
        reduction(op, list[0].dtype),
      ),
    );
  }

  /** Copies the tensor of rank `src` to all members. */
  broadcast(tensor: Tensor, { src = 0 }: { src?: number } = {}): Work {
    this.#checkRank("broadcast", src);
    this.#checkDtypes("broadcast", [tensor]);
    const bytes = this.rank === src ? bytesOf([tensor]) : 0;
    return this.#start("broadcast", bytes, (id) => c10d.broadcast(id, tensor.handle, src));
  }

  /** Reduces into the tensor of rank `dst`. On other ranks its content is undefined afterwards. */
  reduce(tensor: Tensor, { dst = 0, op = "sum" }: { dst?: number; op?: ReduceOperation } = {}): Work {
    this.#checkRank("reduce", dst);
    this.#checkDtypes("reduce", [tensor], op);
    return this.#start("reduce", bytesOf([tensor]), (id) =>
      c10d.reduce(id, tensor.handle, dst, reduction(op, tensor.dtype)),
    );
  }

  /** Gathers the `input` of all ranks, in rank order, into `output`: torch.distributed.all_gather_into_tensor. */
  allGather(output: Tensor, input: Tensor): Work {
    this.#checkDtypes("allGather", [output, input]);
    this.#checkSizes("allGather", output, input);
    return this.#start("allGather", (this.size - 1) * bytesOf([input]), (id) =>
      c10d.allGather(id, output.handle, input.handle),
    );
  }

  /** Gathers the `input` of all ranks into one tensor per rank: torch.distributed.all_gather. */
  allGatherList(outputs: readonly Tensor[], input: Tensor): Work {
    this.#checkCount("allGatherList", outputs);
    this.#checkDtypes("allGatherList", [...outputs, input]);
    return this.#start("allGatherList", (this.size - 1) * bytesOf([input]), (id) =>
      c10d.allGatherList(
        id,
        outputs.map(({ handle }) => handle),
        input.handle,
      ),
    );
  }

  /**
   * Reduces `input`, which has one part per rank, and writes this rank's part to `output`:
   * torch.distributed.reduce_scatter_tensor.
   */
  reduceScatter(output: Tensor, input: Tensor, { op = "sum" }: { op?: ReduceOperation } = {}): Work {
    this.#checkDtypes("reduceScatter", [output, input], op);
    this.#checkSizes("reduceScatter", input, output);
    return this.#start("reduceScatter", this.#share(bytesOf([input])), (id) =>
      c10d.reduceScatter(id, output.handle, input.handle, reduction(op, input.dtype)),
    );
  }

  /** Gathers the `input` of all ranks into `outputs` on rank `dst`; other ranks omit `outputs`. */
  gather(input: Tensor, { dst = 0, outputs = [] }: { dst?: number; outputs?: readonly Tensor[] } = {}): Work {
    this.#checkRank("gather", dst);
    if (this.rank === dst) this.#checkCount("gather", outputs);
    this.#checkDtypes("gather", [input, ...outputs]);
    return this.#start("gather", this.rank === dst ? 0 : bytesOf([input]), (id) =>
      c10d.gather(id, this.rank === dst ? outputs.map(({ handle }) => handle) : [], input.handle, dst),
    );
  }

  /** Sends `inputs` of rank `src`, one per rank, to the `output` of each rank; other ranks omit `inputs`. */
  scatter(output: Tensor, { src = 0, inputs = [] }: { src?: number; inputs?: readonly Tensor[] } = {}): Work {
    this.#checkRank("scatter", src);
    if (this.rank === src) this.#checkCount("scatter", inputs);
    this.#checkDtypes("scatter", [output, ...inputs]);
    return this.#start("scatter", this.rank === src ? bytesOf(inputs) : 0, (id) =>
      c10d.scatter(id, output.handle, this.rank === src ? inputs.map(({ handle }) => handle) : [], src),
    );
  }

  /**
   * Sends part i of `input` to rank i, into the part of its `output` for this rank: all_to_all_single.
   *
   * @param splits sizes of the parts along dimension 0; default: equal sizes
   */
  allToAll(
    output: Tensor,
    input: Tensor,
    { outputSplits = [], inputSplits = [] }: { outputSplits?: readonly number[]; inputSplits?: readonly number[] } = {},
  ): Work {
    this.#checkDtypes("allToAll", [output, input]);
    this.#checkSplits("outputSplits", output, outputSplits);
    this.#checkSplits("inputSplits", input, inputSplits);
    return this.#start("allToAll", this.#share(bytesOf([input])), (id) =>
      c10d.allToAll(id, output.handle, input.handle, outputSplits, inputSplits),
    );
  }

  /** Sends to one rank, which receives with the same tag. */
  send(tensor: Tensor, dst: number, tag = 0): Work {
    this.#checkPeer("send", dst);
    this.#checkDtypes("send", [tensor]);
    return this.#start("send", bytesOf([tensor]), (id) => c10d.send(id, tensor.handle, dst, tag));
  }

  /** Receives into a tensor; without `src` from any rank, which `wait()` returns (Gloo only). */
  recv(tensor: Tensor, src?: number, tag = 0): Work {
    if (src !== undefined) this.#checkPeer("recv", src);
    this.#checkDtypes("recv", [tensor]);
    return this.#start("recv", 0, (id) => c10d.receive(id, tensor.handle, src ?? -1, tag));
  }

  /** Waits until all members have called it. */
  barrier(): Work {
    const index = this.backend === "nccl" ? Number(this.#device?.split(":")[1] ?? 0) : -1;
    return this.#start("barrier", 0, (id) => c10d.barrier(id, index));
  }

  /**
   * A barrier that reports the missing ranks: torch.distributed.monitored_barrier. Gloo only.
   *
   * @throws DistributedError DISTRIBUTED_TIMEOUT naming all ranks of the world that did not arrive
   */
  async monitoredBarrier(timeout = this.#timeout): Promise<void> {
    const key = `barrier/${this.#nextBarrier++}`;
    this.#store.set(`${key}/${this.rank}`, "1");
    try {
      await guardedAsync("monitoredBarrier", () => c10d.monitoredBarrier(this.id, timeout));
    } catch (error) {
      const keys = this.ranks.map((_, i) => `${key}/${i}`);
      const missing = missingOf(this.#store, keys, this.ranks);
      if (missing.length === 0) throw error;
      const who = `${missing.length === 1 ? "rank" : "ranks"} ${missing.join(", ")}`;
      const message = `monitoredBarrier of '${this.name}': ${who} did not arrive within ${timeout} s`;
      throw new DistributedError("DISTRIBUTED_TIMEOUT", message, { cause: error });
    }
  }
  #nextBarrier = 0;

  /** Gathers a small JSON value from every rank: torch.distributed.all_gather_object. Gloo only. */
  async allGatherObject<T>(value: T): Promise<T[]> {
    const bytes = new TextEncoder().encode(JSON.stringify(value) ?? "null");
    let room = SMALL_OBJECT;
    for (;;) {
      const gathered = await this.#exchange(bytes, room);
      const lengths = gathered.map((part) => new DataView(part.buffer, part.byteOffset).getUint32(0, true));
      const most = Math.max(...lengths);
      if (most <= room) {
        const decoder = new TextDecoder();
        return gathered.map((part, i) => JSON.parse(decoder.decode(part.subarray(4, 4 + lengths[i]))) as T);
      }
      room = most; // all ranks see the same lengths and repeat the call with the same buffer size
    }
  }

  /** Sends a small JSON value of rank `src` to all ranks. Gloo only. */
  async broadcastObject<T>(value: T, { src = 0 }: { src?: number } = {}): Promise<T> {
    this.#checkRank("broadcastObject", src);
    const all = await this.allGatherObject(this.rank === src ? value : null);
    return all[src] as T;
  }

  async #exchange(bytes: Uint8Array, room: number): Promise<Uint8Array[]> {
    const own = new Uint8Array(4 + room);
    new DataView(own.buffer).setUint32(0, bytes.length, true);
    own.set(bytes.subarray(0, room), 4);
    const input = torch.keep(torch.tensor(own));
    const output = torch.keep(torch.empty([this.size * own.length], { dtype: "uint8" }));
    try {
      await this.allGather(output, input);
      const all = output.toTypedArray() as Uint8Array;
      return this.ranks.map((_, i) => all.subarray(i * own.length, (i + 1) * own.length));
    } finally {
      input.dispose();
      output.dispose();
    }
  }

  /** Destroys the group. No collective may be in progress. */
  async destroy(): Promise<void> {
    if (this.#id === 0) return;
    const id = this.#id;
    this.#id = 0;
    await c10d.destroyGroup(id);
    this.#store.dispose();
  }

  /**
   * Aborts the group after a failure, without waiting for other ranks. NCCL cancels running collectives; with Gloo they
   * end with their timeout, in a separate thread.
   */
  abort(): void {
    if (this.#id === 0) return;
    const id = this.#id;
    this.#id = 0;
    c10d.abortGroup(id);
    this.#store.dispose();
  }

  #start(what: string, bytes: number, run: (id: NativeId) => NativeId): Work {
    const title = `${what} in group '${this.name}'`;
    const work = new Work(
      guarded(title, () => run(this.id)),
      title,
    );
    communication.bytes += bytes;
    return work;
  }

  /** Bytes that a rank sends in a ring algorithm: all but its own part. */
  #share(bytes: number): number {
    return (bytes * (this.size - 1)) / this.size;
  }

  #checkRank(what: string, rank: number): void {
    if (Number.isInteger(rank) && rank >= 0 && rank < this.size) return;
    throw new DistributedError(
      "DISTRIBUTED_ARGUMENT",
      `${what}: rank ${rank} does not exist in a group of ${this.size}`,
    );
  }

  #checkPeer(what: string, rank: number): void {
    this.#checkRank(what, rank);
    if (rank !== this.rank) return;
    throw new DistributedError("DISTRIBUTED_ARGUMENT", `${what}: rank ${rank} is this process itself`);
  }

  #checkDtypes(what: string, tensors: readonly Tensor[], op?: ReduceOperation): void {
    const dtypes = new Set(tensors.map(({ dtype }) => dtype));
    const wrong = (message: string) => new DistributedError("DISTRIBUTED_ARGUMENT", `${what}: ${message}`);
    if (dtypes.size !== 1) throw wrong(`expected tensors of one dtype, got ${[...dtypes].join(" and ") || "none"}`);
    const [dtype] = dtypes;
    if (dtype === "int16") throw wrong(`${this.backend} does not support int16`);
    const isFloating = /float/.test(dtype);
    if (op === "avg" && !isFloating) throw wrong(`'avg' is not defined for ${dtype}`);
    if (op && isBitwise(op) && isFloating) throw wrong(`'${op}' is for integers, not for ${dtype}`);
    if (op && isBitwise(op) && this.backend === "nccl") throw wrong(`NCCL does not support '${op}'`);
  }

  #checkSplits(name: string, tensor: Tensor, splits: readonly number[]): void {
    const rows = tensor.ndim > 0 ? tensor.size(0) : 1;
    const wrong = (message: string) => new DistributedError("DISTRIBUTED_ARGUMENT", `allToAll: ${message}`);
    if (splits.length === 0) {
      if (rows % this.size !== 0) throw wrong(`${rows} rows are not divisible by ${this.size} ranks: give ${name}`);
      return;
    }
    const isWhole = splits.every((rows) => Number.isInteger(rows) && rows >= 0);
    const total = splits.reduce((sum, rows) => sum + rows, 0);
    if (splits.length === this.size && isWhole && total === rows) return;
    throw wrong(`${name} [${splits.join(", ")}] are not ${this.size} counts that add up to ${rows} rows`);
  }

  #checkCount(what: string, tensors: readonly Tensor[]): void {
    if (tensors.length === this.size) return;
    throw new DistributedError("DISTRIBUTED_ARGUMENT", `${what}: ${tensors.length} tensors for ${this.size} ranks`);
  }

  #checkSizes(what: string, whole: Tensor, part: Tensor): void {
    const [all, one] = [whole.numel(), part.numel()];
    if (all === one * this.size) return;
    const message = `${what}: ${all} elements are not ${this.size} ranks times ${one}`;
    throw new DistributedError("DISTRIBUTED_ARGUMENT", message);
  }
}

function isBitwise(op: ReduceOperation): boolean {
  return op === "band" || op === "bor" || op === "bxor";
}

/** Gloo adds booleans as bytes, with invalid results, so their sum is computed as the maximum, as in NCCL. */
function reduction(op: ReduceOperation, dtype: torch.DType): ReduceOperation {
  return op === "sum" && dtype === "bool" ? "max" : op;
}

/** Objects of up to this many bytes are sent in one collective. */
const SMALL_OBJECT = 1020;

function bytesOf(tensors: readonly Tensor[]): number {
  return tensors.reduce((sum, tensor) => sum + byteLength(tensor), 0);
}

/** The ranks whose key is missing; none if the store does not respond. */
function missingOf(store: Store, keys: readonly string[], ranks: readonly number[]): number[] {
  try {
    return ranks.filter((_, i) => !store.check([keys[i]]));
  } catch {
    return [];
  }
}
