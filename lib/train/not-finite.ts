import { TrainError } from "./errors.js";
import type { Position } from "./events.js";
import type { PlannedStage } from "./plan.js";
import type { StepResult } from "./trainer.js";

/** Says which step was skipped and where its data lies. */
export function skippedMessage(
  { loss, gradNorm, position }: StepResult,
  planned: PlannedStage,
  skippedSoFar: number,
): string {
  const where = `positions ${range(position, planned)} of the stream`;
  return `step skipped: loss ${loss}, gradient norm ${gradNorm} at ${where}; ${skippedSoFar} skipped so far`;
}

/** The error that ends a run when skipping does not help. */
export function divergence(
  { loss, gradNorm, position }: StepResult,
  planned: PlannedStage,
  at: Position,
  inARow: number,
): TrainError {
  const { stage, loader } = planned;
  const samples = Array.from({ length: stage.globalBatchSize }, (_, i) => loader.order.at(position + i).sample);
  const title = `stage '${at.name}': loss or gradient was not finite in ${inARow} steps in a row, up to step ${at.step}`;
  const last = `the last one had loss ${loss}, gradient norm ${gradNorm}`;
  const where = `at positions ${range(position, planned)} of the stream, samples ${samples.join(", ")} of the data`;
  return new TrainError("TRAIN_NOT_FINITE", `${title}; ${last}, ${where}. The weights are those of the last good step`);
}

function range(position: number, { stage }: PlannedStage): string {
  return stage.globalBatchSize === 1 ? String(position) : `${position} to ${position + stage.globalBatchSize - 1}`;
}
