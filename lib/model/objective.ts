import type { Tensor } from "../torch/index.js";
import type { Decoder } from "./decoder.js";

/**
 * What an objective reads: packed sequences in memory of the host, no tensors. The loader makes such batches.
 *
 * Corruption must depend on (seed, stage, `indices[row]`): those are positions in the endless stream of samples, so the
 * same sample is corrupted anew in each epoch, and the same way whatever the number of ranks.
 */
export interface Batch {
  /** Positions in the stream, one a row: never the same twice within a stage. */
  readonly indices: readonly number[];
  /** Clean token ids, row-major [batch, length]. */
  readonly tokens: Int32Array;
  readonly batch: number;
  readonly seqLen: number;
  /**
   * Where documents start in the flattened batch * length tokens, each row's start included, then batch * length
   * (like cu_seqlens). Absent: each row is one document.
   */
  readonly documents?: readonly number[];
  /** [batch, length]: 1 on tokens that may be masked and give loss, such as the answers of SFT. Absent: all do. */
  readonly lossMask?: Uint8Array;
  /** Indices into the dataset, one a row. */
  readonly samples?: readonly number[];
}

/** What an objective is told of the step at hand. */
export interface ObjectiveContext {
  readonly seed: number;
  /** Index of the stage in its curriculum. */
  readonly stage: number;
  /** Optimiser step within the stage, from 0. */
  readonly step: number;
  /** Optimiser steps of the whole stage; an estimate where the stage ends by the clock. */
  readonly steps: number;
  readonly device: string;
  /** The objective's own JSON-able state: saved with checkpoints, given back on resume. */
  readonly state: Record<string, unknown>;
  /** Global gradient norm of the step before. */
  readonly gradNorm?: number;
}

/**
 * A number to be logged. `{ total, count }` is a mean over what a micro-batch counts: totals and counts are summed over
 * micro-batches and processes before they are divided. A plain number is weighted by the micro-batch's normaliser.
 */
export type Metric = number | Tensor | { total: number | Tensor; count: number };

/** What an objective gives back for one micro-batch. */
export interface ObjectiveResult {
  /** float32 scalar: the loss summed over the micro-batch, not its mean. */
  loss: Tensor;
  /** This micro-batch's share of the count that the summed loss of the whole step is divided by. */
  normalizer: number;
  /** Logged beside the trainer's own; {@link Metric} says how they are averaged. */
  metrics?: Record<string, Metric>;
}

/**
 * What a stage trains for: a function of (model, batch, context). Anything of this shape will do: the trainer knows no
 * objective by name. It adds losses and normalisers up over micro-batches and ranks before it divides, so the result never
 * depends on how a batch was cut. For a run to be repeatable the objective draws its randomness from `context.seed`,
 * `context.stage` and `batch.indices` (or from torch's default generator, which is seeded anew for every step), and keeps
 * whatever it must remember in `context.state`.
 */
export type Objective = (model: Decoder, batch: Batch, context: ObjectiveContext) => ObjectiveResult;
