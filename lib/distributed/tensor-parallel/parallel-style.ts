import type { Module } from "../../nn/index.js";
import type { Tensor } from "../../torch/index.js";
import type { ProcessGroup } from "../process-group.js";

/** This rank's part of a parameter along one dimension. */
export interface Share {
  dim: number;
  offset: number;
  size: number;
  /** How many ranks hold this very part. Default 1. */
  copies?: number;
  /** false where another of them owns it. Default true. */
  owned?: boolean;
}

/** What a style may ask of {@link parallelizeModule}. */
export interface StyleContext {
  readonly path: string;
  readonly group: ProcessGroup;
  /** Whether a module around this one sums its input's gradient over the group already: see `sharedInput`. */
  readonly isInputShared: boolean;
  /**
   * Has a parameter replaced by this rank's part of it once every style has agreed. Tied parameters are replaced in all
   * places at once.
   */
  split(parameter: Tensor, share: Share): void;
}

/** How a module is laid over a group: torch.distributed.tensor.parallel.ParallelStyle. */
export interface ParallelStyle {
  /** Set by styles under which the parts of a module need not care for the gradient of their input. */
  readonly sharesInput?: boolean;
  /**
   * Checks the module and asks for its parameters to be split, without changing anything yet.
   *
   * @returns wraps the module's forward, after the parameters were split
   * @throws DistributedError DISTRIBUTED_ARGUMENT
   */
  prepare(module: Module, context: StyleContext): () => void;
}
