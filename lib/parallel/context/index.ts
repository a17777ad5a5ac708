/** Context parallelism, for sequences too long for one device: their positions are split over the ranks of a group. */
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
