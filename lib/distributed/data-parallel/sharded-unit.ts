import { parameter } from "../../nn/index.js";
import { byteLength } from "../../torch/bytes.js";
import * as torch from "../../torch/index.js";
import { DistributedError } from "../errors.js";
import { c10d } from "../native.js";
import type { ProcessGroup } from "../process-group.js";
import type { LocalTensor } from "../tensor-slice.js";
import type { Work } from "../work.js";
import { gradientsOf, type ParameterSlot, reduceDtype, type Unit } from "./parameter-slot.js";

type Tensor = torch.Tensor;

export interface ShardedUnitOptions {
  shard: ProcessGroup;
  /** Gradients are also summed over this group (hybrid sharding). */
  replicate: ProcessGroup | null;
  /** Dtype in which parameters are gathered and computed; default: their own. */
  gatherDtype?: torch.DType;
  /** false: full parameters are kept between forward and backward. */
  reshardAfterForward: boolean;
}

interface UnderWay {
  work: Work;
  output: Tensor;
  input: Tensor;
}

/** One parameter: sharded on dimension 0 between steps, whole while its unit computes. */
interface ShardedParameter {
  slot: ParameterSlot;
  /** [rows of this rank, ...]: a view of the unit's flat shard, and the leaf that the optimizer updates. */
  shard: Tensor;
  /** [rows, ...]: the leaf that the model computes with. It has memory only while the unit is gathered. */
  full: Tensor;
  /** The memory of `full`, padded to a multiple of the ranks; [ranks, elements of a shard]. */
  memory: Tensor;
  bytes: number;
  firstRow: number;
  shape: number[];
}

/**
 * Checks that parameters can form a {@link ShardedUnit}.
 *
 * @throws DistributedError DISTRIBUTED_ARGUMENT
 */
export function checkShardable(slots: readonly ParameterSlot[]): void {
  const wrong = (message: string) => new DistributedError("DISTRIBUTED_ARGUMENT", message);
  const dtypes = new Set(slots.map(({ tensor }) => tensor.dtype));
  if (dtypes.size > 1) {
    throw wrong(`sharded parameters of one segment must have one dtype, found ${[...dtypes].join(" and ")}`);
  }
  const scalar = slots.find(({ tensor }) => tensor.ndim === 0);
  if (scalar) throw wrong(`'${scalar.name}' is a scalar and cannot be sharded: give it the shape [1]`);
}

/**
 * A unit whose parameters, gradients and optimizer state are sharded over a group: ZeRO-3,
 * torch.distributed.fsdp.fully_shard. The shards are gathered before the unit's forward pass and before its backward
 * pass, and freed afterwards. Gradients are reduce-scattered, overlapped with the backward pass of the preceding units.
 */
export class ShardedUnit implements Unit {
  readonly #options: ShardedUnitOptions;
  readonly #parameters: ShardedParameter[];
  readonly #trainable: ShardedParameter[];
  /** The concatenated shards of this rank, each padded to the same size on all ranks. */
  readonly #flat: Tensor;
  readonly #sizes: number[];
  #gathering: UnderWay | undefined;
  #isFull = false;
  #reducing: (UnderWay & { isLast: boolean }) | undefined;
  /**
   * Sum of the step's gradients, in float32 (float64 for float64 parameters), with the layout of the trainable part of
   * the flat shard.
   */
  #gradient: Tensor | undefined;
  #replicating: Work | undefined;

  /** @param slots at least one, see {@link checkShardable} */
  constructor(slots: readonly ParameterSlot[], options: ShardedUnitOptions) {
    this.#options = options;
    const { shard: group, gatherDtype } = options;
    const { dtype, device } = slots[0].tensor;
    // Trainable parameters come first, so that their gradients are a prefix.
    const ordered = [...slots].sort((a, b) => Number(b.tensor.requiresGrad) - Number(a.tensor.requiresGrad));
    const rows = ordered.map(({ tensor }) => Math.ceil(tensor.size(0) / group.size));
    this.#sizes = ordered.map(({ tensor }, i) => (rows[i] * tensor.numel()) / Math.max(1, tensor.size(0)));
    const total = this.#sizes.reduce((sum, size) => sum + size, 0);
    this.#flat = torch.keep(torch.zeros([total], { dtype, device }));
    let offset = 0;
    this.#parameters = ordered.map((slot, i) => {
      const made = this.#shardOf(slot, rows[i], offset, gatherDtype ?? dtype);
      offset += this.#sizes[i];
      return made;
    });
    this.#trainable = this.#parameters.filter(({ shard }) => shard.requiresGrad);
  }

  #shardOf(slot: ParameterSlot, chunk: number, offset: number, dtype: torch.DType): ShardedParameter {
    const { shard: group } = this.#options;
    const whole = slot.tensor;
    const [count, ...rest] = whole.shape;
    const firstRow = Math.min(group.rank * chunk, count);
    const numRows = Math.min(chunk, count - firstRow);
    const row = rest.reduce((a, b) => a * b, 1);
    const made = torch.scope(() =>
      torch.noGrad(() => {
        const shard = this.#flat.narrow(0, offset, numRows * row).view([numRows, ...rest]);
        shard.copy_(whole.narrow(0, firstRow, numRows));
        const padded = torch.empty([group.size * chunk, ...rest], { dtype, device: whole.device });
        // Weights are gathered into an alias of `full`, so that its version counter, which autograd checks, is not
        // bumped.
        const memory = torch.ops.aten.data(padded) as Tensor;
        return { shard, full: padded.narrow(0, 0, count), memory: memory.view([group.size, chunk * row]) };
      }),
    );
    const { requiresGrad } = whole;
    const shard = parameter(made.shard.detach(), requiresGrad);
    const full = parameter(made.full.detach(), requiresGrad);
    const memory = torch.keep(made.memory);
    made.shard.dispose();
    made.full.dispose();
    const bytes = byteLength(memory);
    c10d.resizeStorage(full.handle, 0);
    slot.set(shard);
    whole.dispose();
    return { slot, shard, full, memory, bytes, firstRow, shape: [count, ...rest] };
  }

  prefetch(): void {
    if (this.#isFull || this.#gathering) return;
    const { shard: group, gatherDtype } = this.#options;
    const input = torch.noGrad(() => torch.keep(gatherDtype ? this.#flat.to({ dtype: gatherDtype }) : this.#flat));
    const output = torch.keep(torch.empty([group.size * input.numel()], { dtype: input.dtype, device: input.device }));
    this.#gathering = { work: group.allGather(output, input), output, input };
  }

  beforeForward(): void {
    this.#gather();
  }

  afterForward(): void {
    if (this.#options.reshardAfterForward || !torch.isGradEnabled()) this.release();
  }

  beforeBackward(): void {
    this.#gather();
  }

  #gather(): void {
    if (this.#isFull) return;
    this.prefetch();
    const { work, output, input } = this.#gathering as UnderWay;
    this.#gathering = undefined;
    work.wait();
    for (const { full, bytes } of this.#parameters) c10d.resizeStorage(full.handle, bytes);
    torch.scope(() =>
      torch.noGrad(() => {
        const out = this.#parameters.map(({ memory }) => memory);
        const parts = output.view([this.#options.shard.size, -1]);
        torch.ops.aten.split_with_sizes_copy(parts, this.#sizes, 1, { out });
      }),
    );
    freeAfter({ work, output, input }, this.#flat);
    for (const { slot, full } of this.#parameters) slot.set(full);
    this.#isFull = true;
  }

  afterBackward(isLast: boolean): void {
    this.settle();
    if (this.#trainable.length > 0) this.#reduce(isLast);
    this.release();
  }

  #reduce(isLast: boolean): void {
    const { shard: group } = this.#options;
    const started = torch.scope(() =>
      torch.noGrad(() => {
        const full = this.#trainable.map((parameter) => parameter.full);
        const dtype = reduceDtype(this.#flat);
        const gradients = gradientsOf(full).map((gradient) => gradient.to(dtype));
        const input = (torch.ops.aten._chunk_cat(gradients, 0, group.size) as Tensor).flatten();
        const output = torch.empty([input.numel() / group.size], { dtype, device: input.device });
        return { input, output };
      }),
    );
    for (const { full } of this.#trainable) full.grad = null;
    const { input, output } = torch.keep(started);
    this.#reducing = { work: group.reduceScatter(output, input), input, output, isLast };
  }

  settle(): void {
    if (!this.#reducing) return;
    const { work, input, output, isLast } = this.#reducing;
    this.#reducing = undefined;
    work.wait();
    input.dispose();
    if (this.#gradient) {
      torch.noGrad(() => this.#gradient?.add_(output));
      output.dispose();
    } else {
      this.#gradient = output;
    }
    // The sum over replicas starts after the last micro-batch of the step.
    if (isLast && this.#options.replicate) this.#replicating = this.#options.replicate.allReduce(this.#gradient);
  }

  finish(): void {
    this.settle();
    this.#replicating?.wait();
    this.#replicating = undefined;
    const gradient = this.#gradient;
    this.#gradient = undefined;
    if (!gradient) return;
    let offset = 0;
    for (const [i, { shard }] of this.#trainable.entries()) {
      torch.scope(() =>
        torch.noGrad(() => {
          const own = gradient.narrow(0, offset, shard.numel()).view(shard.shape).to({ dtype: shard.dtype });
          const before = shard.grad;
          shard.grad = before ? before.add(own) : own;
        }),
      );
      offset += this.#sizes[i];
    }
    gradient.dispose();
  }

  release(): void {
    // Parameters that were prefetched but not used would be outdated after the next update.
    if (this.#gathering) freeAfter(this.#gathering, this.#flat);
    this.#gathering = undefined;
    if (!this.#isFull) return;
    this.#isFull = false;
    for (const { slot, shard, full } of this.#parameters) {
      slot.set(shard);
      c10d.resizeStorage(full.handle, 0);
    }
  }

  local(): LocalTensor[] {
    const { replicate } = this.#options;
    return this.#parameters.map(({ slot, shard, firstRow, shape }) => ({
      name: slot.name,
      tensor: shard,
      slice: { shape, offset: [firstRow, ...shape.slice(1).map(() => 0)], size: shard.shape },
      owned: replicate === null || replicate.rank === 0,
    }));
  }

  [Symbol.dispose](): void {
    try {
      this.settle();
      this.#replicating?.wait();
      this.release();
    } catch {
      // After a failure: the pending works keep the tensors that they read or write.
    }
    this.#flat.dispose();
    this.#gradient?.dispose();
    for (const { full, memory } of this.#parameters) {
      full.dispose();
      memory.dispose();
    }
  }
}

/** Frees the tensors of a completed collective, except `kept`. */
function freeAfter({ work, output, input }: UnderWay, kept: Tensor): void {
  try {
    work.wait();
  } finally {
    output.dispose();
    if (input !== kept) input.dispose();
  }
}
