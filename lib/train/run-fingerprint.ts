import type { RunFingerprint } from "../checkpoint/index.js";
import type { Decoder } from "../model/index.js";
import { NOMINAL_STEPS, type PlannedStage, rateAt } from "./plan.js";

/**
 * The part of a run that a checkpoint records, so that a different run cannot resume from it: seed, model and stages.
 * The source of the model and its compute dtype are not included. Options have the names of 0.1.0, see {@link
 * currentNames}.
 */
export function fingerprintOf(model: Decoder, planned: readonly PlannedStage[], seed: number): RunFingerprint {
  const { dtype: _, other: __, ...shape } = model.config;
  return { seed, model: { ...shape, dtype: model.parameters()[0].dtype }, stages: stageFingerprints(planned) };
}

/**
 * The part of each stage that must be the same on resume, as JSON. Functions cannot be compared: a schedule is
 * represented by its rates, a custom objective by its name and the stage's `fingerprint`.
 */
function stageFingerprints(planned: readonly PlannedStage[]): Record<string, unknown>[] {
  return planned.map(({ stage, loader, seed, steps, source, optimizer }) => {
    const context = { steps: steps ?? NOMINAL_STEPS, previous: 1 };
    const sampled = [0, 0.01, 0.1, 0.5, 0.9].map((share) => Math.floor(share * context.steps));
    const { hash = null, seqLen, numSamples } = loader.dataset;
    return {
      name: stage.name,
      kind: stage.kind,
      objective: storedOptions(asJson(stage.fingerprint ?? null)),
      end: stage.end,
      rates: sampled.map((step) => rateAt(stage, step, context)),
      optimizer: typeof optimizer === "function" ? `function ${optimizer.name}` : optimizer,
      batchSize: stage.globalBatchSize,
      clip: stage.maxGradNorm,
      precision: stage.precision,
      seed,
      data: { source, hash, length: seqLen, numSamples, order: [0, 1, 2].map((at) => loader.order.at(at).sample) },
    };
  });
}

/** Round-trips a value through JSON, as the fingerprint in a checkpoint was. */
function asJson(value: unknown): unknown {
  return JSON.parse(
    JSON.stringify(value, (_, inner) => (typeof inner === "function" ? `function ${inner.name}` : inner)),
  );
}

/** An objective's options with the names of 0.1.0, in its key order. */
function storedOptions(options: unknown): unknown {
  if (!isRecord(options) || !("headChunkSize" in options)) return options;
  const stored: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(options)) {
    if (key === "crossDocumentAttention") continue;
    if (key === "headChunkSize") stored.documents = options.crossDocumentAttention === true ? "visible" : "isolated";
    stored[{ headChunkSize: "chunkSize", timeSampling: "times" }[key] ?? key] = value;
  }
  return stored;
}

/**
 * A fingerprint with the current option names. Checkpoints keep the names of 0.1.0, so that runs of 0.1.0 can be
 * resumed and the bytes of a checkpoint do not depend on option names; messages show the current names.
 */
export function currentNames({ stages, ...run }: RunFingerprint): RunFingerprint {
  return {
    ...run,
    stages: stages.map(({ objective, data, ...stage }) => ({
      ...renamed(stage, { batchSize: "globalBatchSize", clip: "maxGradNorm" }),
      objective: currentOptions(objective),
      data: isRecord(data) ? renamed(data, { length: "seqLen" }) : data,
    })),
  };
}

function currentOptions(stored: unknown): unknown {
  if (!isRecord(stored) || !("chunkSize" in stored && "documents" in stored)) return stored;
  const { documents, ...options } = stored;
  return {
    ...renamed(options, { chunkSize: "headChunkSize", times: "timeSampling" }),
    crossDocumentAttention: documents === "visible",
  };
}

function renamed(record: Record<string, unknown>, names: Record<string, string>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [names[key] ?? key, value]));
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
