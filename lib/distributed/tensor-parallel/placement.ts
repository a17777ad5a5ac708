import type { TensorSlice } from "../tensor-slice.js";

/** Where a parameter is, of a model whose tensors are split over the ranks of a group. */
export interface ParameterPlacement {
  /** What part of the whole parameter this rank holds. */
  slice: TensorSlice;
  /** "sharded": ranks hold parts. "replicated": all hold the whole, with the same gradient, bit for bit. */
  placement: "sharded" | "replicated";
  /** How many ranks hold this very slice: each may count 1 / copies of it in a sum over all. */
  copies: number;
  /** Of those ranks one owns it: the one that writes it to checkpoints. */
  owned: boolean;
}

/** Placements by parameter name, in the order of the module's parameters. */
export type ParameterPlacements = Map<string, ParameterPlacement>;
