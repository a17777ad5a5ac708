import { createHash } from "node:crypto";
import { type RunFingerprint, StableDiffCoder } from "../checkpoint/index.js";
import { type Fingerprint, requireAlike, type World } from "../distributed/index.js";
import type { Decoder } from "../model/index.js";
import { NOMINAL_STEPS, type PlannedStage, rateAt } from "./plan.js";
import { resolvePrecision } from "./precision.js";
import type { RunSettings } from "./run-options.js";

/**
 * What a checkpoint holds of its run, so that another run cannot resume from it: seed, model and stages. Where the model
 * came from and the type it computes in do not count. In the names of 0.1.0, see {@link currentNames}.
 */
export function fingerprintOf(model: Decoder, planned: readonly PlannedStage[], seed: number): RunFingerprint {
  const { dtype: _, other: __, ...shape } = model.config;
  return { seed, model: { ...shape, dtype: model.parameters()[0].dtype }, stages: stageFingerprints(planned) };
}

/**
 * What must be the same for a run to resume, stage by stage, as JSON. Functions cannot be compared: a schedule is known by
 * its rates, an objective of one's own by its name and the stage's `fingerprint`.
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

/** As JSON gives it back: the fingerprint in a checkpoint went through a file. */
function asJson(value: unknown): unknown {
  return JSON.parse(
    JSON.stringify(value, (_, inner) => (typeof inner === "function" ? `function ${inner.name}` : inner)),
  );
}

/** An objective's options as 0.1.0 wrote them, key by key in its order. */
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
 * A fingerprint with today's names of options. Checkpoints keep the names of 0.1.0, so that its runs can be resumed and a
 * checkpoint's bytes do not depend on what an option is called; messages show the names that users write.
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

/** Runs that a world's processes began: all count alike. */
const runs = new WeakMap<World, number>();

/**
 * Looks whether the processes of a run are about to train the same: model, stages, data and options. It is done before
 * parameters travel, over the store: shapes that differ would end in the middle of a collective, and anything else would
 * train to the end as if nothing were wrong.
 *
 * @throws DistributedError DISTRIBUTED_STATE with every difference by rank, DISTRIBUTED_TIMEOUT naming ranks that do not come
 */
export async function requireSameRun(
  world: World,
  planned: readonly PlannedStage[],
  settings: RunSettings,
): Promise<void> {
  const run = runs.get(world) ?? 0;
  runs.set(world, run + 1);
  const { store, rank, size } = world;
  const place = { store, rank, size, timeout: settings.parallel.timeouts.init };
  await requireAlike(place, `run/${run}`, "beginning a run", processFingerprint(planned, settings));
}

/** All that must be the same in the processes of a run, by the paths of the options that decide it. */
function processFingerprint(planned: readonly PlannedStage[], settings: RunSettings): Fingerprint {
  const { model, outputDir, seed, resume, overwrite, checkpointEvery, keepLatest, asyncCheckpoint, strict } = settings;
  const { maxSkipped, deterministic, parallel } = settings;
  const decoder = model instanceof StableDiffCoder ? model.model : model;
  const { other: _, ...shape } = decoder.config;
  const { stages } = currentNames(fingerprintOf(decoder, planned, seed));
  const flat: Record<string, string> = {};
  flatten(flat, "", {
    ...{
      seed,
      resume,
      overwrite,
      checkpointEvery,
      keepLatest,
      asyncCheckpoint,
      strict,
      maxSkipped,
      deterministic,
      parallel,
    },
    outputDir: outputDir === undefined ? "none" : "a folder",
    model: { ...shape, dtype: decoder.parameters()[0].dtype },
    stages: planned.map((stage, i) => stageOptions(stage, stages[i], decoder)),
  });
  return flat;
}

function stageOptions(
  { stage, loader, optimizer, seed }: PlannedStage,
  fingerprint: Record<string, unknown>,
  { device }: Decoder,
): Record<string, unknown> {
  const {
    objective: options,
    rates,
    end: _,
    data,
    ...rest
  } = fingerprint as { rates: number[] } & Record<string, unknown>;
  return {
    ...rest,
    seed,
    ...stage.end,
    lr: new Set(rates).size === 1 ? rates[0] : rates,
    ...(stage.schedule && { schedule: sourceOf(stage.schedule) }),
    ...(options !== null && { options }),
    objective: sourceOf(stage.objective),
    optimizer: typeof optimizer === "function" ? sourceOf(optimizer) : optimizer,
    gradientAccumulationSteps: stage.gradientAccumulationSteps,
    // "auto" is what the machine is good at, and machines differ.
    precision: resolvePrecision(stage.precision, device),
    checkpoint: stage.checkpoint ?? "none",
    positionsPerToken: stage.positionsPerToken,
    evaluate: stage.evaluate ? { every: stage.evaluate.every, run: sourceOf(stage.evaluate.run) } : "none",
    sample: stage.sample ? { every: stage.sample.every, run: sourceOf(stage.sample.run) } : "none",
    data: { ...(data as object), ...(loader.dataset.hash === undefined && { firstSample: firstSample(loader) }) },
  };
}

/** Data that does not name its content is known by the first tokens that are read of it. */
function firstSample(loader: PlannedStage["loader"]): string {
  try {
    return digest(loader.batchAt(0, 1).tokens.join());
  } catch {
    return "cannot be read"; // which training will say, with stage and sample
  }
}

/** A function cannot be compared, but its text can: what it closes over is the caller's business. */
function sourceOf(value: (...args: never[]) => unknown): string {
  return `${value.name || "function"} with source ${digest(String(value))}`;
}

function digest(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 12);
}

const LONGEST = 120;

/** The leaves of a value by their paths; lists of plain values are leaves. */
function flatten(into: Record<string, string>, path: string, value: unknown): void {
  const isTree = typeof value === "object" && value !== null;
  if (isTree && !(Array.isArray(value) && value.every((item) => typeof item !== "object" || item === null))) {
    for (const [key, inner] of Object.entries(value)) {
      const step = Array.isArray(value) ? `[${key}]` : path === "" ? key : `.${key}`;
      flatten(into, `${path}${step}`, inner);
    }
    return;
  }
  if (value === undefined) return;
  const text =
    typeof value === "function" ? sourceOf(value as () => unknown) : (JSON.stringify(value) ?? String(value));
  into[path] = text.length <= LONGEST ? text : `${text.slice(0, LONGEST / 2)}... (${digest(text)})`;
}
