/** Sequences longer than a device holds: their positions spread over the ranks of a group. */
export { type ContextParallel, type ContextParallelOptions, contextParallel } from "./context-parallel.js";
export type { Pending, RingGroup } from "./ring-attention.js";
export { type RingAttentionOptions, ringAttention } from "./ring-attention.js";
export {
  type Piece,
  type PieceOrder,
  type Rectangle,
  SequenceSplit,
  type SequenceSplitOptions,
} from "./sequence-split.js";
