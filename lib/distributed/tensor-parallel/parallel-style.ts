import type { Module } from "../../nn/index.js";
import type { Tensor } from "../../torch/index.js";
import type { ProcessGroup } from "../process-group.js";

/** This rank's part of a parameter along one dimension. */
export interface Share {
  dim: number;
  offset: number;
  size: number;
  /** Number of ranks with the same part. Default 1. */
  copies?: number;
  /** false if another of these ranks owns it. Default true. */
  owned?: boolean;
}

/** Context that {@link parallelizeModule} passes to styles. */
export interface StyleContext {
  readonly path: string;
  readonly group: ProcessGroup;
  /** Whether an enclosing module already sums its input's gradient over the group, see `sharedInput`. */
  readonly isInputShared: boolean;
  /**
   * Registers a parameter to be replaced by this rank's part after all styles have succeeded. Tied parameters are
   * replaced in all places at once.
   */
  split(parameter: Tensor, share: Share): void;
}

/** How a module is parallelized over a group: torch.distributed.tensor.parallel.ParallelStyle. */
export interface ParallelStyle {
  /** Set by styles that sum the gradient of the module's input, so that its submodules do not have to. */
  readonly sharesInput?: boolean;
  /**
   * Checks the module and registers its parameters for splitting, without changing anything yet.
   *
   * @returns a function that wraps the module's forward, called after the parameters were split
   * @throws DistributedError DISTRIBUTED_ARGUMENT
   */
  prepare(module: Module, context: StyleContext): () => void;
}
