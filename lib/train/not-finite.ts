import { TrainError } from "./errors.js";
import type { Position } from "./events.js";
import type { StepResult } from "./trainer.js";

/** Says which step was skipped and where its data lies. */
export function skippedMessage({ loss, gradNorm, indices }: StepResult, skippedSoFar: number): string {
  const where = `positions ${range(indices)} of the stream`;
  return `step skipped: loss ${loss}, gradient norm ${gradNorm} at ${where}; ${skippedSoFar} skipped so far`;
}

/** The error that ends a run when skipping does not help. */
export function divergence({ loss, gradNorm, indices, samples }: StepResult, at: Position, inARow: number): TrainError {
  const title = `stage '${at.name}': loss or gradient was not finite in ${inARow} steps in a row, up to step ${at.step}`;
  const last = `the last one had loss ${loss}, gradient norm ${gradNorm}`;
  const where = `at positions ${range(indices)} of the stream, samples ${samples.join(", ")} of the data`;
  return new TrainError("TRAIN_NOT_FINITE", `${title}; ${last}, ${where}. The weights are those of the last good step`);
}

function range(indices: readonly number[]): string {
  return indices.length === 1 ? String(indices[0]) : `${indices[0]} to ${indices[indices.length - 1]}`;
}
