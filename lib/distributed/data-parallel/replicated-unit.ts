import { byteLength } from "../../torch/bytes.js";
import * as torch from "../../torch/index.js";
import type { ProcessGroup } from "../process-group.js";
import { type LocalTensor, wholeSlice } from "../tensor-slice.js";
import type { Work } from "../work.js";
import { gradientsOf, type ParameterSlot, reduceDtype, type Unit } from "./parameter-slot.js";

type Tensor = torch.Tensor;

/**
 * Buckets of gradients that are summed over ranks together, because many small messages cost more than one large one
 * (bucket_cap_mb of torch.nn.parallel.DistributedDataParallel).
 */
export class Buckets {
  readonly #group: ProcessGroup | null;
  readonly #limit: number;
  #waiting: Tensor[] = [];
  #bytes = 0;
  #works: Work[] = [];
  /**
   * Gradients that are being summed, and the tensors in which they are summed: the gradients themselves if their dtype
   * allows it.
   */
  #sums: { gradient: Tensor; sum: Tensor }[] = [];

  /** @param group null for a rank without replicas, which has nothing to communicate */
  constructor(group: ProcessGroup | null, bytes: number) {
    this.#group = group;
    this.#limit = bytes;
  }

  add(gradients: readonly Tensor[]): void {
    if (!this.#group) return;
    for (const gradient of gradients) {
      const sum = torch.keep(gradient.to({ dtype: reduceDtype(gradient) }));
      this.#sums.push({ gradient: torch.keep(gradient), sum });
      this.#waiting.push(sum);
      this.#bytes += byteLength(sum);
    }
    if (this.#bytes >= this.#limit) this.#send(this.#group);
  }

  #send(group: ProcessGroup): void {
    const byDtype = new Map<string, Tensor[]>();
    for (const gradient of this.#waiting) {
      const list = byDtype.get(gradient.dtype) ?? [];
      byDtype.set(gradient.dtype, list);
      list.push(gradient);
    }
    for (const sums of byDtype.values()) this.#works.push(group.allReduce(sums));
    this.#waiting = [];
    this.#bytes = 0;
  }

  finish(): void {
    if (this.#group && this.#waiting.length > 0) this.#send(this.#group);
    for (const work of this.#works) work.wait();
    for (const { gradient, sum } of this.#sums) {
      if (sum.dtype !== gradient.dtype) torch.noGrad(() => gradient.copy_(sum));
      sum.dispose();
      gradient.dispose();
    }
    this.#works = [];
    this.#sums = [];
  }
}

/**
 * A unit with whole parameters on every rank. Gradients are summed while the backward pass of earlier units continues.
 */
export class ReplicatedUnit implements Unit {
  readonly #slots: readonly ParameterSlot[];
  readonly #trainable: Tensor[];
  readonly #buckets: Buckets;
  readonly #isOwner: boolean;

  /** @param isOwner whether this rank is the one among its replicas that writes checkpoints */
  constructor(slots: readonly ParameterSlot[], buckets: Buckets, isOwner: boolean) {
    this.#slots = slots;
    this.#trainable = slots.map(({ tensor }) => tensor).filter((tensor) => tensor.requiresGrad);
    this.#buckets = buckets;
    this.#isOwner = isOwner;
  }

  prefetch(): void {}
  beforeForward(): void {}
  afterForward(): void {}
  beforeBackward(): void {}
  release(): void {}
  settle(): void {}

  afterBackward(isLast: boolean): void {
    if (!isLast) return;
    torch.scope(() =>
      torch.noGrad(() => {
        const gradients = gradientsOf(this.#trainable).map((gradient) => gradient.contiguous());
        for (const [i, parameter] of this.#trainable.entries()) parameter.grad = gradients[i];
        this.#buckets.add(gradients);
      }),
    );
  }

  finish(): void {
    this.#buckets.finish();
  }

  local(): LocalTensor[] {
    return this.#slots.map(({ name, tensor }) => ({
      name,
      tensor,
      slice: wholeSlice(tensor.shape),
      owned: this.#isOwner,
    }));
  }

  [Symbol.dispose](): void {}
}
