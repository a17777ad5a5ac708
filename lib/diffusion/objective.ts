import type { Decoder } from "../model/decoder.js";
import type { Tensor } from "../torch/index.js";
import type { TokenBatch } from "./batch.js";

/** What a training step tells the objective. The trainer's own context has these fields and more. */
export interface ObjectiveContext {
  seed: number;
  /** Index of the stage in its curriculum. */
  stage: number;
  /** Optimiser step within the stage, from 0. */
  step: number;
  device: string;
  /** The objective's own JSON-able state: saved with checkpoints, given back on resume. */
  state: Record<string, unknown>;
  /** Global gradient norm of the step before. */
  gradNorm?: number;
}

/**
 * A number to be logged. `{ total, count }` is a mean over what a micro-batch counts: totals and counts are summed over
 * micro-batches and processes before they are divided. A plain number is weighted by the micro-batch's normaliser.
 */
export type Metric = number | Tensor | { total: number | Tensor; count: number };

/** What an objective gives back for one micro-batch. */
export interface ObjectiveResult {
  /** float32 scalar: the loss summed over the micro-batch. */
  loss: Tensor;
  /** This micro-batch's share of the global count the summed loss is divided by. */
  normalizer: number;
  metrics: Record<string, Metric>;
}

/**
 * A training objective: a function of (model, batch, context). The trainer adds losses and normalisers up over
 * micro-batches and ranks before it divides, so the result never depends on how a batch was cut.
 */
export type Objective = (model: Decoder, batch: TokenBatch, context: ObjectiveContext) => ObjectiveResult;
