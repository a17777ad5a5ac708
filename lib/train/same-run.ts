import { createHash } from "node:crypto";
import { StableDiffCoder } from "../checkpoint/index.js";
import { type Fingerprint, requireAlike, type World } from "../distributed/index.js";
import type { Decoder } from "../model/index.js";
import type { PlannedStage } from "./plan.js";
import { resolvePrecision } from "./precision.js";
import { currentNames, fingerprintOf } from "./run-fingerprint.js";
import type { RunSettings } from "./run-options.js";

/** Number of runs started so far in a world. It is the same in all its processes. */
const runs = new WeakMap<World, number>();

/**
 * Checks that all processes of a run have the same model, stages, data and options. The check uses the store and runs
 * before the first collective: different shapes would fail in the middle of a collective, and any other difference
 * would go unnoticed.
 *
 * @throws DistributedError DISTRIBUTED_STATE with every difference by rank, DISTRIBUTED_TIMEOUT naming the ranks that
 *   do not take part
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
  await requireAlike(place, `run/${run}`, "starting a run", processFingerprint(planned, settings));
}

/** Values that must be the same in all processes of a run, by option path. */
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
    // "auto" depends on the machine, and machines may differ.
    precision: resolvePrecision(stage.precision, device),
    checkpoint: stage.checkpoint ?? "none",
    positionsPerToken: stage.positionsPerToken,
    evaluate: stage.evaluate ? { every: stage.evaluate.every, run: sourceOf(stage.evaluate.run) } : "none",
    sample: stage.sample ? { every: stage.sample.every, run: sourceOf(stage.sample.run) } : "none",
    data: { ...(data as object), ...(loader.dataset.hash === undefined && { firstSample: firstSample(loader) }) },
  };
}

/** Data without a fingerprint is represented by its first sample. */
function firstSample(loader: PlannedStage["loader"]): string {
  try {
    return digest(loader.batchAt(0, 1).tokens.join());
  } catch {
    return "cannot be read"; // training reports it with stage and sample
  }
}

/** A function cannot be compared, but its source can. Variables that it closes over are not compared. */
function sourceOf(value: (...args: never[]) => unknown): string {
  return `${value.name || "function"} with source ${digest(String(value))}`;
}

function digest(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 12);
}

const LONGEST = 120;

/** Adds the leaves of a value by path; lists of plain values are leaves. */
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
