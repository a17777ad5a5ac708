import { paddedRows, uploadFloats, uploadIntegers } from "../../diffusion/batch.js";
import { DistributedError } from "../../distributed/errors.js";
import type { AttentionPattern, AttentionPlan } from "../../model/attention-plan.js";
import type { CrossEntropyOptions, Decoder } from "../../model/decoder.js";
import { wrapForward } from "../../nn/index.js";
import type { Tensor } from "../../torch/index.js";
import * as torch from "../../torch/index.js";
import { type RingGroup, ringAttention } from "./ring-attention.js";
import { type PieceOrder, SequenceSplit } from "./sequence-split.js";

/** Options of {@link contextParallel}. */
export interface ContextParallelOptions {
  /** Default "head-tail", which balances the load of causal attention. */
  order?: PieceOrder;
}

/** Handle of a model with context parallelism. */
export interface ContextParallel {
  /** Restores the model's own methods. Remove several wrappers of a model in reverse order. */
  remove(): void;
}

/**
 * Splits the positions of a model's sequences over a group (context parallelism). The model's `forward` and
 * `crossEntropy` are replaced on the instance, and objectives run unchanged. All ranks must call them together, with
 * the same ids, targets and plans.
 *
 * - `forward(ids, plan)` takes the whole ids [b, s]. For a plan with a `pattern` and selected rows it computes this
 *   rank's positions, with {@link ringAttention}, and returns only the selected rows on this rank (plus padding rows,
 *   whose weight is zero).
 * - `crossEntropy(hidden, targets, options)` takes all targets [n] and row weights. The loss is this rank's part of the
 *   sum, so losses and gradients must be summed over the group; nll [n] is complete on every rank.
 *
 * Any other plan (samplers, caches, custom attention) runs unsplit on every rank, and its loss is divided by the
 * group's size.
 *
 * Call it last, so that the wrappers of tensor and data parallelism are inside and receive this rank's ids and plan.
 *
 * @throws DistributedError DISTRIBUTED_ARGUMENT, from the wrapped methods, for ids or targets that do not match the
 *   plan
 */
export function contextParallel(
  model: Decoder,
  group: RingGroup,
  { order = "head-tail" }: ContextParallelOptions = {},
): ContextParallel {
  const selections = new WeakMap<Tensor, Selection>();
  const unwrap = wrapForward(model, (forward) => (ids, plan) => {
    const { pattern, lastLayer } = plan;
    if (!pattern || !lastLayer?.rows) return forward(ids, plan);
    const local = localPass(ids, plan, pattern, lastLayer.rows, { group, order });
    const hidden = forward(local.ids, local.plan);
    selections.set(hidden, local.selection);
    return hidden;
  });
  const whole = model.crossEntropy.bind(model);
  const restore = replaceCrossEntropy(model, (hidden, targets, options = {}) => {
    const selection = selections.get(hidden);
    if (selection) return localCrossEntropy(whole, hidden, targets, options, selection, group);
    const { loss, nll } = whole(hidden, targets, options);
    return { loss: loss.div(group.size), nll };
  });
  return {
    remove() {
      restore();
      unwrap();
    },
  };
}

function replaceCrossEntropy(model: Decoder, value: Decoder["crossEntropy"]): () => void {
  const before = Object.getOwnPropertyDescriptor(model, "crossEntropy");
  // Not enumerable, because a module's enumerable properties are its parameters and submodules.
  Object.defineProperty(model, "crossEntropy", { value, configurable: true });
  return () => {
    if (before) Object.defineProperty(model, "crossEntropy", before);
    else Reflect.deleteProperty(model, "crossEntropy");
  };
}

/** A row selection on the model's device. */
interface Selection {
  total: number;
  count: number;
  /** int64 [padded] */
  wanted: Tensor;
  /** float32 [padded] */
  weights: Tensor;
}

/** The ids of this rank's positions, a plan for them, and the selection of the hidden states that it returns. */
function localPass(
  ids: Tensor,
  plan: AttentionPlan,
  pattern: AttentionPattern,
  rows: Tensor,
  { group, order }: { group: RingGroup; order: PieceOrder },
): { ids: Tensor; plan: AttentionPlan; selection: Selection } {
  const { length, documents } = pattern;
  const blockSize = pattern.kind === "block-diffusion" ? pattern.blockSize : undefined;
  const halves = blockSize === undefined ? 1 : 2;
  const asking = plan.lastLayer?.queries === length ? 1 : halves;
  const [batch, width] = ids.shape;
  if (width !== halves * length) {
    const message = `ids have ${width} positions, but a ${pattern.kind} plan of length ${length} has ${halves * length}`;
    throw new DistributedError("DISTRIBUTED_ARGUMENT", message);
  }
  const { rank, size } = group;
  const split = new SequenceSplit({ batch, length, size, blockSize, documents, order });
  const { wanted, local, weights, ...counts } = selectRows(plan.lastLayer?.rowIndices ?? numbersOf(rows), split, rank, {
    length,
    halves: asking,
  });
  const positions = split.positions(rank);
  const { device } = ids;
  const [wantedHere, localRows, places] = uploadIntegers([wanted, local, positions], device);
  const here = split.uniform ? places : places.view([batch, split.length]);
  const index = halves === 1 ? here : torch.cat([here, here.add(length)], -1);
  return {
    ids: pick(ids, index),
    plan: {
      positions: pick(plan.positions, index),
      end: plan.end,
      attend: (_layer, q, k, v) => ringAttention(q, k, v, { group, split, blockSize }),
      lastLayer: { ...(asking < halves && { queries: split.length }), rows: localRows, rowIndices: local },
    },
    selection: { ...counts, wanted: wantedHere, weights: uploadFloats(weights, device) },
  };
}

/** Selects the positions `index` ([s'] or [b, s']) of a tensor [s] or [b, s]. */
function pick(whole: Tensor, index: Tensor): Tensor {
  if (index.ndim === 1) return whole.indexSelect(-1, index);
  return whole.expand([index.size(0), whole.size(-1)]).gather(1, index);
}

/**
 * Reads row indices from the device, which synchronizes; plans whose rows are known on the host set `rowIndices`
 * instead.
 */
function numbersOf(rows: Tensor): Int32Array {
  return Int32Array.from(rows.toTypedArray() as ArrayLike<number | bigint>, Number);
}

function localCrossEntropy(
  crossEntropy: Decoder["crossEntropy"],
  hidden: Tensor,
  targets: Tensor,
  { rowWeights, ...options }: CrossEntropyOptions,
  { total, count, wanted, weights }: Selection,
  group: RingGroup,
): { loss: Tensor; nll: Tensor } {
  if (targets.numel() !== total || (rowWeights && rowWeights.numel() !== total)) {
    const given = `${targets.numel()} targets${rowWeights ? ` and ${rowWeights.numel()} row weights` : ""}`;
    throw new DistributedError("DISTRIBUTED_ARGUMENT", `crossEntropy: ${given} for ${total} selected hidden states`);
  }
  const here = { rowWeights: rowWeights ? rowWeights.indexSelect(0, wanted).mul(weights) : weights };
  const { loss, nll } = crossEntropy(hidden, targets.indexSelect(0, wanted), { ...options, ...here });
  const all = torch.zeros([total], { dtype: nll.dtype, device: nll.device });
  all.indexCopy_(0, wanted.narrow(0, 0, count), nll.narrow(0, 0, count));
  group.allReduce(all).wait();
  return { loss, nll: all };
}

/** The selected hidden states that are on one rank, as host arrays. */
export interface RowSelection {
  /** Number of selected rows on all ranks. */
  total: number;
  /** Number of selected rows on this rank. */
  count: number;
  /** Indices into the list of selected rows, [padded]: those on this rank, ascending, then zeros. */
  wanted: Int32Array;
  /** Their indices in this rank's flattened [b * queries] positions, [padded], then zeros. */
  local: Int32Array;
  /** 1 for rows on this rank, 0 for padding rows, [padded]. */
  weights: Float32Array;
}

/**
 * Finds the selected rows that are on a rank. Their number is rounded up with padding rows of weight zero: the number
 * differs between ranks and may be zero, but all ranks must take part in the backward pass.
 *
 * @param rows indices into the flattened [b * queries] positions of the whole sequence
 * @param halves number of halves of the input that have queries: `queries` is halves * length
 */
export function selectRows(
  rows: Int32Array,
  split: SequenceSplit,
  rank: number,
  { length, halves }: { length: number; halves: number },
): RowSelection {
  const wanted: number[] = [];
  const local: number[] = [];
  for (const [i, at] of rows.entries()) {
    const [row, place] = [Math.floor(at / (halves * length)), at % (halves * length)];
    const [half, position] = [Math.floor(place / length), place % length];
    const here = split.locate(rank, row, position);
    if (here === undefined) continue;
    wanted.push(i);
    local.push((row * halves + half) * split.length + here);
  }
  const count = wanted.length;
  const padded = rows.length === 0 ? 0 : paddedRows(count);
  const pad = (values: number[]) => Int32Array.from({ length: padded }, (_, i) => values[i] ?? 0);
  const weights = new Float32Array(padded).fill(1, 0, count);
  return { total: rows.length, count, wanted: pad(wanted), local: pad(local), weights };
}
