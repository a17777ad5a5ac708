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
  /** Default "head-tail", which costs all ranks the same. */
  order?: PieceOrder;
}

/** What {@link contextParallel} did to a model. */
export interface ContextParallel {
  /** Gives the model its own methods back. Of several wraps around a model the last must go first. */
  remove(): void;
}

/**
 * Spreads the positions of a model's sequences over a group, beside the model: its `forward` and `crossEntropy` are
 * replaced on the instance, and objectives run as they are. All ranks must call them together, with the same ids,
 * targets and plans.
 *
 * - `forward(ids, plan)` takes the whole ids [b, s]. With a plan that has a `pattern` and wanted rows it computes this
 *   rank's positions, attention by {@link ringAttention}, and gives only those of the wanted rows that lie here (and
 *   some more, whose weight is zero).
 * - `crossEntropy(hidden, targets, options)` takes all targets [n] and row weights. The loss is this rank's part of the
 *   sum, so losses and gradients are to be summed over the group; nll [n] is whole, on every rank.
 *
 * Any other plan (samplers, caches, attention of a user's own) runs unsplit on every rank, and its loss is divided by
 * the group's size.
 *
 * To be called last: what tensor and data parallelism have put around the model is then within, and gets this rank's
 * ids and plan.
 *
 * @throws DistributedError DISTRIBUTED_ARGUMENT, when called, for ids or targets that do not fit the plan
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
  // Not enumerable: a module's enumerable properties are its parts.
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

/** The ids of this rank's positions, a plan for them, and which of the wanted hidden states come out. */
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
    const message = `ids have ${width} positions, a ${pattern.kind} plan of length ${length} has ${halves * length}`;
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

/** The positions `index` ([s'] or [b, s']) of a tensor [s] or [b, s]. */
function pick(whole: Tensor, index: Tensor): Tensor {
  if (index.ndim === 1) return whole.indexSelect(-1, index);
  return whole.expand([index.size(0), whole.size(-1)]).gather(1, index);
}

/** Waits for the device: plans that know their rows on the host say so in `rowIndices`. */
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
    throw new DistributedError("DISTRIBUTED_ARGUMENT", `crossEntropy: ${given} for ${total} wanted hidden states`);
  }
  const here = { rowWeights: rowWeights ? rowWeights.indexSelect(0, wanted).mul(weights) : weights };
  const { loss, nll } = crossEntropy(hidden, targets.indexSelect(0, wanted), { ...options, ...here });
  const all = torch.zeros([total], { dtype: nll.dtype, device: nll.device });
  all.indexCopy_(0, wanted.narrow(0, 0, count), nll.narrow(0, 0, count));
  group.allReduce(all).wait();
  return { loss, nll: all };
}

/** Which of the wanted hidden states lie on a rank, on the host. */
export interface RowSelection {
  /** Wanted in all. */
  total: number;
  /** Of them here. */
  count: number;
  /** Places in the list of wanted rows, [padded]: those that are here, ascending, then zeros. */
  wanted: Int32Array;
  /** Where they lie in this rank's flattened [b * queries] positions, [padded]; then zeros. */
  local: Int32Array;
  /** 1 for rows that are here, 0 for those added, [padded]. */
  weights: Float32Array;
}

/**
 * Finds the wanted rows that lie on a rank. Their number is rounded up, with rows that weigh nothing: other ranks have
 * other numbers, none at all perhaps, and all take part in the same backward pass.
 *
 * @param rows indices into the flattened [b * queries] positions of the whole sequence
 * @param halves of the input that have queries: `queries` is halves * length
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
