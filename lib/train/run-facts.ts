import type { ResumeFacts } from "../checkpoint/index.js";
import type { Decoder } from "../model/index.js";
import type { ParallelModel } from "../parallel/index.js";
import type { RunFacts } from "./events.js";
import { type PlannedStage, resumeFacts } from "./plan.js";
import type { RunSettings } from "./run-options.js";
import { versions } from "./versions.js";

/** What a run tells of itself when it begins. */
export function describeRun(
  parallel: ParallelModel,
  planned: readonly PlannedStage[],
  settings: RunSettings,
): RunFacts {
  const { model, facts: mesh } = parallel;
  const { config } = model;
  const heads = `${config.numHeads} heads (${config.numKeyValueHeads} for keys and values)`;
  return {
    out: settings.out,
    parameters: parallel.numParameters(),
    model: `${config.numLayers} layers of ${config.hiddenSize}, ${heads}, vocabulary ${config.vocabSize}`,
    device: model.device,
    ...(mesh && { parallel: mesh }),
    seed: settings.seed,
    stages: planned.map(({ facts }) => facts),
    versions: versions(),
    startedAt: new Date().toISOString(),
  };
}

/** What a checkpoint remembers of a run, to refuse another one. Where the model came from and computes does not count. */
export function identify(model: Decoder, planned: readonly PlannedStage[], seed: number): ResumeFacts {
  const { dtype: _, other: __, ...shape } = model.config;
  return { seed, model: { ...shape, dtype: model.parameters()[0].dtype }, stages: resumeFacts(planned) };
}
