import { type Module, wrapForward } from "../../nn/index.js";
import { itemSize } from "../../torch/bytes.js";
import * as torch from "../../torch/index.js";
import { DistributedError } from "../errors.js";
import type { ProcessGroup } from "../process-group.js";
import type { LocalTensor } from "../tensor-slice.js";
import { type ParameterSlot, reduceDtype, type Unit, unitSlots } from "./parameter-slot.js";
import { Buckets, ReplicatedUnit } from "./replicated-unit.js";
import { checkShardable, ShardedUnit } from "./sharded-unit.js";

type Tensor = torch.Tensor;
type Segment = Module & { forward(...args: never[]): unknown };

export interface DataParallelOptions {
  /** Parameters, gradients and optimizer state are sharded over this group; null: not sharded. */
  shard: ProcessGroup | null;
  /** Gradients are summed over this group; together with `shard` this is hybrid sharding. */
  replicate: ProcessGroup | null;
  /** Dtype in which sharded parameters are gathered and computed. Gradients are reduced in float32 or higher. */
  gatherDtype?: torch.DType;
  /**
   * false: gathered parameters are kept from forward to backward, for more memory and a third less communication.
   * Default true.
   */
  reshardAfterForward?: boolean;
  /**
   * Size in bytes of the gradient buckets of replicas. Default 25 MiB, as in PyTorch, but at most a sixth of the model,
   * because a single bucket would be sent only after the backward pass.
   */
  bucketBytes?: number;
}

/**
 * Data-parallel training of a model that consists of segments: torch's replicate (DDP), fully_shard (FSDP2) and both
 * together. Around the forward and backward pass of each segment, its {@link Unit} gathers parameters and sends
 * gradients, overlapped with the computation of adjacent segments. Parameters outside all segments (embedding, last
 * norm, head) form one unit that stays gathered from its first use until {@link finish}.
 *
 * A step is `backward` of the loss of every micro-batch, the last one with `isLast`, followed by `finish`.
 */
export class DataParallel {
  readonly #units: Unit[];
  readonly #root: Unit;
  readonly #unwrap: (() => void)[] = [];
  #isLast = true;
  /** Units whose gradients of the current micro-batch are being communicated. */
  readonly #done = new Set<Unit>();
  /**
   * Number of forward passes of each segment without a backward pass yet: a segment may be called several times per
   * micro-batch.
   */
  readonly #calls: number[];
  /** Segments with an output whose gradient has not arrived yet. */
  readonly #expected = new Set<number>();

  /**
   * @param segments segments in the order of their forward passes
   * @throws DistributedError DISTRIBUTED_ARGUMENT for a segment that is listed twice or is not part of the model, and
   *   with `shard` for one whose parameters differ in dtype or are scalars; the model is then unchanged
   */
  constructor(model: Segment, segments: readonly Segment[], options: DataParallelOptions) {
    checkSegments(model, segments);
    const slots = unitSlots(model, segments);
    if (options.shard) for (const list of [slots.root, ...slots.segments]) checkShardable(list);
    const make = unitMaker(options, gradientBytes([...slots.root, ...slots.segments.flat()]));
    this.#calls = segments.map(() => 0);
    this.#units = slots.segments.map(make);
    this.#root = make(slots.root);
    this.#unwrap.push(wrapForward(model, (forward) => this.#aroundModel(forward)));
    for (const [i, segment] of segments.entries()) {
      this.#unwrap.push(wrapForward(segment, (forward) => this.#around(i, forward)));
    }
  }

  /** Wraps the whole model: gathers the parameters outside all segments. */
  #aroundModel(forward: Segment["forward"]): Segment["forward"] {
    return (...args) => {
      this.#root.beforeForward();
      this.#units[0]?.prefetch();
      return forward(...args);
    };
  }

  /** Wraps one segment with the four hooks of its unit. */
  #around(index: number, forward: Segment["forward"]): Segment["forward"] {
    const unit = this.#units[index];
    return (...args) => {
      unit.beforeForward();
      this.#units[index + 1]?.prefetch();
      if (!torch.isGradEnabled()) {
        const result = forward(...args);
        unit.afterForward();
        return result;
      }
      this.#calls[index]++;
      const inputs = torch.tensorTree(args, (tensor) => tensor.requiresGrad);
      const after = onBackward(() => {
        if (--this.#calls[index] <= 0) this.#afterBackward(index);
      });
      const result = forward(...(inputs.rebuild(after(inputs.tensors)) as never[]));
      unit.afterForward();
      const outputs = torch.tensorTree(result, (tensor) => tensor.requiresGrad);
      if (outputs.tensors.length > 0) this.#expected.add(index);
      const before = onBackward(() => this.#beforeBackward(index));
      return outputs.rebuild(before(outputs.tensors));
    };
  }

  #beforeBackward(index: number): void {
    this.#expected.delete(index);
    this.#units[index].beforeBackward();
    if (this.#expected.has(index - 1)) this.#units[index - 1].prefetch();
  }

  #afterBackward(index: number): void {
    const unit = this.#units[index];
    if (this.#done.has(unit)) return;
    this.#done.add(unit);
    unit.afterBackward(this.#isLast);
    this.#units[index + 1]?.settle();
  }

  /**
   * Backward pass of one micro-batch. If the loss does not depend on all segments (a micro-batch without targets), this
   * rank still takes part in the collectives of the other ranks; its forward pass must be the same as theirs.
   */
  backward(loss: Tensor, { isLast }: { isLast: boolean }): void {
    this.#isLast = isLast;
    this.#done.clear();
    if (loss.requiresGrad) loss.backward();
    for (let index = this.#units.length - 1; index >= 0; index--) {
      if (this.#done.has(this.#units[index])) continue;
      if (this.#expected.has(index)) this.#beforeBackward(index);
      this.#afterBackward(index);
    }
    this.#root.afterBackward(isLast);
    this.#forget();
  }

  /** Waits for all gradients, which are then in this rank's parameters, summed over all ranks and micro-batches. */
  finish(): void {
    for (let index = this.#units.length - 1; index >= 0; index--) this.#units[index].finish();
    this.#root.finish();
    this.release();
  }

  /** Frees gathered parameters after a forward pass without a backward pass. */
  release(): void {
    this.#forget();
    for (const unit of this.#units) unit.release();
    this.#root.release();
  }

  #forget(): void {
    this.#calls.fill(0);
    this.#expected.clear();
  }

  /** This rank's part of every parameter. These are the tensors that the optimizer updates. */
  local(): LocalTensor[] {
    return [this.#root, ...this.#units].flatMap((unit) => unit.local());
  }

  /** Removes the wrappers. The model keeps this rank's parts as its parameters. */
  dispose(): void {
    for (const unwrap of this.#unwrap.reverse()) unwrap();
    for (const unit of [this.#root, ...this.#units]) unit[Symbol.dispose]();
  }
}

function gradientBytes(slots: readonly ParameterSlot[]): number {
  return slots.reduce(
    (sum, { tensor }) => sum + (tensor.requiresGrad ? tensor.numel() * itemSize(reduceDtype(tensor)) : 0),
    0,
  );
}

function unitMaker(options: DataParallelOptions, totalBytes: number) {
  const { shard, replicate, gatherDtype, reshardAfterForward = true } = options;
  const { bucketBytes = Math.min(25 * 2 ** 20, totalBytes / 6) } = options;
  const buckets = new Buckets(replicate, bucketBytes);
  const isOwner = !replicate || replicate.rank === 0;
  return (slots: readonly ParameterSlot[]): Unit =>
    shard && slots.length > 0
      ? new ShardedUnit(slots, { shard, replicate, gatherDtype, reshardAfterForward })
      : new ReplicatedUnit(slots, buckets, isOwner);
}

function checkSegments(model: Module, segments: readonly Module[]): void {
  const parts = new Set(Array.from(model.namedModules(), ([, part]) => part));
  const wrong = (message: string) => new DistributedError("DISTRIBUTED_ARGUMENT", `DataParallel: ${message}`);
  for (const [i, segment] of segments.entries()) {
    if (segment === model || !parts.has(segment)) throw wrong(`segment ${i} is not part of the model`);
    if (segments.indexOf(segment) !== i)
      throw wrong(`segment ${i} is the same as segment ${segments.indexOf(segment)}`);
  }
}

/**
 * Passes tensors through and calls `callback` when all their gradients have arrived, before they are propagated
 * further.
 */
function onBackward(callback: () => void): (tensors: readonly Tensor[]) => Tensor[] {
  const pass = torch.defineFunction<Tensor[], Tensor[]>({
    forward: (_, ...tensors) => tensors,
    backward: (_, ...gradients) => {
      callback();
      return gradients;
    },
  });
  return (tensors) => (tensors.length > 0 ? pass(...tensors) : []);
}
