import { DistributedError } from "../../distributed/errors.js";
import type { Tensor } from "../../torch/index.js";
import * as torch from "../../torch/index.js";
import type { Rectangle, SequenceSplit } from "./sequence-split.js";

/** A transfer or collective in progress. */
export interface Pending {
  /** Waits until the tensors may be used; on a CUDA device the stream waits. */
  wait(): unknown;
}

/** The part of a process group that context parallelism uses. */
export interface RingGroup {
  readonly rank: number;
  readonly size: number;
  /** Must not block until the message is received. Messages between two ranks arrive in order. */
  send(tensor: Tensor, destination: number): Pending;
  recv(tensor: Tensor, source: number): Pending;
  /** Sums over all ranks, in place. */
  allReduce(tensor: Tensor): Pending;
}

/** Options of {@link ringAttention}. */
export interface RingAttentionOptions {
  group: RingGroup;
  /** The split of the whole sequence over the group. */
  split: SequenceSplit;
  /** B, for block diffusion over [x_t ; x_0]; must equal the split's. Absent: causal attention. */
  blockSize?: number;
  /** Default 1 / sqrt(d). */
  scale?: number;
}

/**
 * Attention over a sequence whose positions are split over the ranks of a group: causal, or block diffusion (section
 * 3.1's mask). All ranks call it together, forward and backward.
 *
 * Each rank first attends to the keys of its own positions in one call. The keys and values of the other ranks are sent
 * around the ring, overlapped with computation, and their partial results are merged by log-sum-exp. Noisy keys are not
 * sent, because only their own block attends to them. In the backward pass keys and values are sent around again,
 * together with their gradients, which end at the rank that owns them (Ring Attention, arXiv 2310.01889).
 *
 * Sums over ranks are in float32, or float64 for float64 inputs.
 *
 * @param q this rank's positions in the order of {@link SequenceSplit}, l = split.length: [b, l, h, d] for causal
 *   attention; for block diffusion [b, 2l, h, d], noisy half first, or [b, l, h, d] for the noisy half only
 * @param k, v [b, l, hkv, d], for block diffusion [b, 2l, hkv, d]
 * @returns a tensor of q's shape
 */
export function ringAttention(q: Tensor, k: Tensor, v: Tensor, options: RingAttentionOptions): Tensor {
  const { split, blockSize, group } = options;
  const halves = blockSize === undefined ? 1 : 2;
  const [asking, held] = [q.size(1), k.size(1)];
  if (held !== halves * split.length || (asking !== held && asking !== split.length) || split.size !== group.size) {
    const expected = `${halves} * ${split.length} positions of a split over ${split.size} ranks`;
    const message = `ringAttention in a group of ${group.size}: q has ${asking} positions and k ${held}, expected ${expected}`;
    throw new DistributedError("DISTRIBUTED_ARGUMENT", message);
  }
  return attend(q, k, v, options);
}

const attend = torch.defineFunction({
  forward(context, q: Tensor, k: Tensor, v: Tensor, options: RingAttentionOptions) {
    const [out, lse] = torch.scope(() => forward(q, k, v, options));
    context.saveForBackward(q, k, v, out, lse);
    context.options = options;
    return out;
  },
  backward(context, grad) {
    const [q, k, v, out, lse] = context.saved;
    // Whether a gradient arrives depends on the graph, which is the same on all ranks.
    return grad ? backward(grad, { q, k, v, out, lse }, context.options as RingAttentionOptions) : [null, null, null];
  },
});

type Merged = Record<"q" | "k" | "v" | "out" | "lse", Tensor>;

function forward(q: Tensor, k: Tensor, v: Tensor, options: RingAttentionOptions): [out: Tensor, lse: Tensor] {
  const own = ownPart(options);
  const [clean, size] = [cleanHalf(k, options), options.group.size];
  let next: Step | undefined;
  if (size > 1) next = ringSendRecv(options.group, torch.stack([clean(k), clean(v)]));
  const [ownOut, lse] = own.forward(q, k, v);
  const out = ownOut.to(lse.dtype);
  for (let step = 1; step < size; step++) {
    const keys = (next as Step).arrived();
    next = step + 1 < size ? ringSendRecv(options.group, keys) : undefined;
    torch.scope(() => {
      const [kTheirs, vTheirs] = keys.unbind(0);
      for (const part of partsFrom(step, q, options)) {
        const seen = [part.queries(q), part.keys(kTheirs), part.keys(vTheirs)];
        const more = torch.ops.diffcoder.attention_forward(...seen, options.scale ?? null) as [Tensor, Tensor];
        merge_(part.queries(out), part.lse(lse), more);
      }
    });
  }
  return [out.to(q.dtype), lse];
}

function backward(grad: Tensor, { q, k, v, out, lse }: Merged, options: RingAttentionOptions): Tensor[] {
  const { group, scale } = options;
  const own = ownPart(options);
  const clean = cleanHalf(k, options);
  let next: Step | undefined;
  if (group.size > 1) next = ringSendRecv(group, torch.stack([clean(k), clean(v)]));
  const [dqOwn, dk, dv] = own.backward(grad, q, k, v, out, lse);
  const dq = dqOwn.to(lse.dtype);
  // The gradient sums travel with their keys to the next rank; after a full round they are back at their owner.
  let sums: Step | undefined;
  for (let step = 1; step < group.size; step++) {
    const keys = (next as Step).arrived();
    next = step + 1 < group.size ? ringSendRecv(group, keys) : undefined;
    const gradients = torch.zeros(keys.shape, { dtype: lse.dtype, device: keys.device });
    torch.scope(() => {
      const [kTheirs, vTheirs] = keys.unbind(0);
      const [dkTheirs, dvTheirs] = gradients.unbind(0);
      for (const part of partsFrom(step, q, options)) {
        const seen = [part.queries(grad), part.queries(q), part.keys(kTheirs), part.keys(vTheirs)];
        const merged = [part.queries(out), part.lse(lse)];
        const more = torch.ops.diffcoder.attention_backward(...seen, ...merged, scale ?? null) as [
          Tensor,
          Tensor,
          Tensor,
        ];
        part.queries(dq).add_(more[0]);
        part.keys(dkTheirs).add_(more[1]);
        part.keys(dvTheirs).add_(more[2]);
      }
    });
    if (sums) {
      const before = sums.arrived();
      gradients.add_(before);
      before.dispose();
    }
    sums = ringSendRecv(group, gradients);
  }
  if (sums) {
    const [dkHome, dvHome] = sums.arrived().unbind(0);
    clean(dk).add_(dkHome);
    clean(dv).add_(dvHome);
  }
  return [dq.to(q.dtype), dk, dv];
}

/** Merges two partial results of attention into out and lse, in place, weighted by their log-sum-exp. */
function merge_(out: Tensor, lse: Tensor, [more, moreLse]: [Tensor, Tensor]): void {
  const share = moreLse.sub(lse).sigmoid_().transpose(1, 2).unsqueeze(-1);
  out.lerp_(more.to(out.dtype), share);
  lse.copy_(lse.logaddexp(moreLse));
}

/** Attention operators for a rank's queries and its own keys, as for a separate sequence. */
function ownPart({ group, split, blockSize, scale }: RingAttentionOptions) {
  const { diffcoder } = torch.ops;
  const name = blockSize === undefined ? "causal_attention" : "block_diffusion_attention";
  const settings = [...(blockSize === undefined ? [] : [blockSize]), split.documentsAt(group.rank), scale ?? null];
  return {
    forward: (...tensors: Tensor[]) => diffcoder[`${name}_forward`](...tensors, ...settings) as [Tensor, Tensor],
    backward: (...tensors: Tensor[]) =>
      diffcoder[`${name}_backward`](...tensors, ...settings) as [Tensor, Tensor, Tensor],
  };
}

/** Selects the part of the keys (or their gradients) that is sent around, from tensors of k's shape. */
function cleanHalf(k: Tensor, { blockSize }: RingAttentionOptions): (t: Tensor) => Tensor {
  if (blockSize === undefined) return (t) => t;
  const half = k.size(1) / 2;
  return (t) => t.narrow(1, half, half);
}

/** Views of the tensors for one pair of a query range and a key range. */
interface Part {
  /** View of a tensor [b, s, h, d] like q. */
  queries(t: Tensor): Tensor;
  /** View of a tensor [b, h, s]. */
  lse(t: Tensor): Tensor;
  /** View of a tensor [b, l, hkv, d]. */
  keys(t: Tensor): Tensor;
}

/** The parts of this rank's queries and of the keys received after `step` steps, for each half with queries. */
function partsFrom(step: number, q: Tensor, { group, split }: RingAttentionOptions): Part[] {
  const source = (group.rank + group.size - step) % group.size;
  const halves = q.size(1) / split.length;
  return split.rectangles(group.rank, source).flatMap((rectangle) => {
    // Both halves attend to the same clean keys, so they form one range of queries.
    const whole = rectangle.queries === split.length;
    const runs = whole ? [0] : Array.from({ length: halves }, (_, half) => half * split.length);
    const queries = whole ? q.size(1) : rectangle.queries;
    return runs.map((first) => partOf(rectangle, first + rectangle.query, queries));
  });
}

function partOf({ row, rows, key, keys }: Rectangle, query: number, queries: number): Part {
  const inRows = (t: Tensor) => t.narrow(0, row, rows);
  return {
    queries: (t) => inRows(t).narrow(1, query, queries),
    lse: (t) => inRows(t).narrow(2, query, queries),
    keys: (t) => inRows(t).narrow(1, key, keys),
  };
}

/** One step around the ring, in progress. */
export interface Step {
  /** Waits for the tensor of the previous rank, of the same shape and dtype as the sent one, and frees the sent one. */
  arrived(): Tensor;
}

/**
 * Sends a tensor to the next rank while receiving the one of the previous rank. All ranks of the group must call it, in
 * the same order. It takes ownership of the tensor, which may be read until {@link Step.arrived}.
 */
export function ringSendRecv(group: RingGroup, tensor: Tensor): Step {
  const { rank, size } = group;
  const received = torch.emptyLike(tensor);
  const send = () => group.send(tensor, (rank + 1) % size);
  const receive = () => group.recv(received, (rank + size - 1) % size);
  // NCCL runs the transfers between two ranks in call order, and a send waits for its receive: two neighbors that both
  // start with the send would deadlock.
  const pending = rank % 2 === 0 ? [send(), receive()] : [receive(), send()];
  return {
    arrived() {
      for (const work of pending) work.wait();
      tensor.dispose();
      return received;
    },
  };
}
