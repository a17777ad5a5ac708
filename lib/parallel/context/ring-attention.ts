import { DistributedError } from "../../distributed/errors.js";
import type { Tensor } from "../../torch/index.js";
import * as torch from "../../torch/index.js";
import type { Rectangle, SequenceSplit } from "./sequence-split.js";

/** A transfer or collective under way. */
export interface Pending {
  /** Until the tensors may be used; on a device that is an order to its stream. */
  wait(): unknown;
}

/** What context parallelism needs of a process group. */
export interface RingGroup {
  readonly rank: number;
  readonly size: number;
  /** Must not wait for the other side. Messages of one pair of ranks arrive in the order sent. */
  send(tensor: Tensor, destination: number): Pending;
  recv(tensor: Tensor, source: number): Pending;
  /** The sum over all ranks, in place. */
  allReduce(tensor: Tensor): Pending;
}

/** Options of {@link ringAttention}. */
export interface RingAttentionOptions {
  group: RingGroup;
  /** The whole sequence, split over the group. */
  split: SequenceSplit;
  /** B, for block diffusion over [x_t ; x_0]; its split must have the same. Absent: causal attention. */
  blockSize?: number;
  /** Default 1 / sqrt(d). */
  scale?: number;
}

/**
 * Attention over a sequence whose positions are spread over the ranks of a group: causal, or block diffusion (section
 * 3.1's mask). All ranks call it together, forward and backward.
 *
 * Each rank's queries see the keys of its own positions in one call; the other ranks' keys and values come around the
 * ring, the next ones while the current ones are worked on, and what the queries see of them is merged by log-sum-exp.
 * Noisy keys stay where they are: only their own block sees them. In the backward pass keys and values go around once
 * more, and their gradients with them until they are home (Ring Attention, arXiv 2310.01889).
 *
 * Sums over ranks are made in float32, float64 for float64.
 *
 * @param q this rank's positions as {@link SequenceSplit} has them, l = split.length: [b, l, h, d] for causal attention,
 *   for block diffusion [b, 2l, h, d], noisy half first, or the noisy half's [b, l, h, d]
 * @param k, v [b, l, hkv, d], for block diffusion [b, 2l, hkv, d]
 * @returns like q
 */
export function ringAttention(q: Tensor, k: Tensor, v: Tensor, options: RingAttentionOptions): Tensor {
  const { split, blockSize, group } = options;
  const halves = blockSize === undefined ? 1 : 2;
  const [asking, held] = [q.size(1), k.size(1)];
  if (held !== halves * split.length || (asking !== held && asking !== split.length) || split.size !== group.size) {
    const expected = `${halves} * ${split.length} positions of a split over ${split.size} ranks`;
    const message = `ringAttention in a group of ${group.size}: q has ${asking} positions and k ${held}, not ${expected}`;
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
    // Whether a gradient arrives depends on the graph, which all ranks have alike.
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
  // Sums of a rank's gradients leave it for the next one with its keys; after a round they are home.
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

/** out and lse become those of the keys of both parts: softmax is linear in the parts' shares of its sum. */
function merge_(out: Tensor, lse: Tensor, [more, moreLse]: [Tensor, Tensor]): void {
  const share = moreLse.sub(lse).sigmoid_().transpose(1, 2).unsqueeze(-1);
  out.lerp_(more.to(out.dtype), share);
  lse.copy_(lse.logaddexp(moreLse));
}

/** The operators of what a rank's queries see of its own keys, as of a sequence that has only these. */
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

/** The part of keys (or their gradients) that travels, of tensors as long as `k`. */
function cleanHalf(k: Tensor, { blockSize }: RingAttentionOptions): (t: Tensor) => Tensor {
  if (blockSize === undefined) return (t) => t;
  const half = k.size(1) / 2;
  return (t) => t.narrow(1, half, half);
}

/** Views of the tensors that take part where some queries see some keys. */
interface Part {
  /** Of [b, s, h, d] like q. */
  queries(t: Tensor): Tensor;
  /** Of [b, h, s]. */
  lse(t: Tensor): Tensor;
  /** Of [b, l, hkv, d]. */
  keys(t: Tensor): Tensor;
}

/** What this rank's queries see of the keys that have come `step` ranks far, for each half that asks. */
function partsFrom(step: number, q: Tensor, { group, split }: RingAttentionOptions): Part[] {
  const source = (group.rank + group.size - step) % group.size;
  const halves = q.size(1) / split.length;
  return split.rectangles(group.rank, source).flatMap((rectangle) => {
    // Both halves see the same clean keys. All of them at once are one run of queries.
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

/** One step around the ring, under way. */
export interface Step {
  /** What came from the rank before, of the same shape and dtype as what was sent, which is freed. */
  arrived(): Tensor;
}

/**
 * Sends a tensor to the next rank while the one of the rank before arrives. All ranks of the group must call it, in the
 * same order. The tensor is given away: it may be read until {@link Step.arrived}.
 */
export function ringSendRecv(group: RingGroup, tensor: Tensor): Step {
  const { rank, size } = group;
  const received = torch.emptyLike(tensor);
  const send = () => group.send(tensor, (rank + 1) % size);
  const receive = () => group.recv(received, (rank + size - 1) % size);
  // NCCL runs the transfers of a pair of ranks in the order they were asked for, and a send waits for its receive: two
  // neighbours that both began with the send would wait for ever.
  const pending = rank % 2 === 0 ? [send(), receive()] : [receive(), send()];
  return {
    arrived() {
      for (const work of pending) work.wait();
      tensor.dispose();
      return received;
    },
  };
}
