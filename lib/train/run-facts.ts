import type { ParallelModel } from "../parallel/index.js";
import type { RunInfo } from "./events.js";
import type { PlannedStage } from "./plan.js";
import type { RunSettings } from "./run-options.js";
import { versions } from "./versions.js";

/** What a run tells of itself when it begins. */
export function describeRun(parallel: ParallelModel, planned: readonly PlannedStage[], settings: RunSettings): RunInfo {
  const { model, info: mesh } = parallel;
  const { config } = model;
  const heads = `${config.numHeads} heads (${config.numKeyValueHeads} for keys and values)`;
  return {
    outputDir: settings.outputDir,
    parameters: parallel.numParameters(),
    model: `${config.numLayers} layers of ${config.hiddenSize}, ${heads}, vocabulary ${config.vocabSize}`,
    device: model.device,
    ...(mesh && { parallel: mesh }),
    seed: settings.seed,
    stages: planned.map(({ info }) => info),
    versions: versions(),
    startedAt: new Date().toISOString(),
  };
}
