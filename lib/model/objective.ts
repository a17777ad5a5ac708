import type { Tensor } from "../torch/index.js";
import type { Decoder } from "./decoder.js";

/**
 * Input of an objective: packed sequences in host memory, without tensors. The loader creates batches.
 *
 * Corruption must depend on (seed, stage, `indices[row]`): these are positions in the endless stream of samples, so a
 * sample is corrupted differently in each epoch, but equally for every number of ranks.
 */
export interface Batch {
  /** Positions in the stream, one per row; unique within a stage. */
  readonly indices: readonly number[];
  /** Clean token ids, row-major [batch, length]. */
  readonly tokens: Int32Array;
  readonly batch: number;
  readonly seqLen: number;
  /**
   * Document starts in the flattened batch * length tokens, including the start of each row, followed by batch * length
   * (like cu_seqlens). Absent: each row is one document.
   */
  readonly documents?: readonly number[];
  /**
   * [batch, length]: 1 on tokens that may be masked and contribute to the loss, such as the answers of SFT. Absent: all
   * tokens.
   */
  readonly lossMask?: Uint8Array;
  /** Indices into the dataset, one per row. */
  readonly samples?: readonly number[];
}

/** Context of the current step. */
export interface ObjectiveContext {
  readonly seed: number;
  /** Index of the stage in its curriculum. */
  readonly stage: number;
  /** Optimizer step within the stage, from 0. */
  readonly step: number;
  /** Optimizer steps of the whole stage; an estimate if the stage ends after a number of minutes. */
  readonly steps: number;
  readonly device: string;
  /** The objective's state, as JSON: saved with checkpoints and restored on resume. */
  readonly state: Record<string, unknown>;
  /** Global gradient norm of the previous step. */
  readonly gradNorm?: number;
}

/**
 * A value to be logged. `{ total, count }` is a mean: totals and counts are summed over micro-batches and processes
 * before they are divided. A plain number is weighted by the micro-batch's normalizer.
 */
export type Metric = number | Tensor | { total: number | Tensor; count: number };

/** Result of an objective for one micro-batch. */
export interface ObjectiveResult {
  /** float32 scalar: the loss summed over the micro-batch, not its mean. */
  loss: Tensor;
  /** This micro-batch's share of the count that the summed loss of the whole step is divided by. */
  normalizer: number;
  /** Logged with the trainer's metrics; see {@link Metric} for the averaging. */
  metrics?: Record<string, Metric>;
}

/**
 * The training objective of a stage: a function of (model, batch, context). Any function of this shape works. The
 * trainer sums losses and normalizers over micro-batches and ranks before it divides, so the result does not depend on
 * how a batch is split. For reproducible runs an objective derives its randomness from `context.seed`, `context.stage`
 * and `batch.indices` (or from torch's default generator, which is reseeded for every step), and keeps its state in
 * `context.state`.
 */
export type Objective = (model: Decoder, batch: Batch, context: ObjectiveContext) => ObjectiveResult;
