import * as z from "zod";
import { type Dataset, Loader } from "../data/index.js";
import type { DecoderConfig } from "../model/index.js";
import type { ParallelModel } from "../parallel/index.js";
import * as torch from "../torch/index.js";
import { packageVersion } from "../torch/package-version.js";
import { parseOptions, TrainError } from "./errors.js";
import type { RunInfo, StageInfo } from "./events.js";
import { adamw, type OptimizerChoice } from "./optimizer.js";
import type { RunSettings } from "./run-options.js";
import { LIMITS } from "./run-options.js";
import type { Stage, StageData, StageEnd } from "./stage.js";
import { failureOf } from "./user-code.js";

/** A stage with everything that can be computed before it runs. */
export interface PlannedStage {
  readonly stage: Stage;
  readonly index: number;
  readonly loader: Loader;
  /** Index of its data source in the curriculum; stages with the same index share a position. */
  readonly source: number;
  readonly seed: number;
  /** Optimizer steps; null if the stage ends after a number of minutes. */
  readonly steps: number | null;
  /** Clean tokens per step. */
  readonly tokensPerStep: number;
  /** Index of the stage that created the optimizer in use. */
  readonly optimizerFrom: number;
  readonly optimizer: OptimizerChoice;
  readonly info: StageInfo;
  /** Probable mistakes in the stage, as messages. */
  readonly warnings: readonly string[];
}

// Number of steps that a schedule is checked with if the length of the stage is not known yet.
export const NOMINAL_STEPS = 1000;

/**
 * Plans a curriculum: the steps, the data source and the optimizer of each stage.
 *
 * @throws TrainError TRAIN_OPTIONS for stages that contradict themselves, each other or the model
 */
export function planStages(stages: readonly Stage[], seed: number, config?: DecoderConfig): PlannedStage[] {
  checkStages(stages);
  const sources: StageData[] = [];
  const loaders: Loader[] = [];
  let optimizerFrom = 0;
  const planned = stages.map((stage, index): PlannedStage => {
    let source = sources.indexOf(stage.data);
    if (source < 0) {
      source = sources.push(stage.data) - 1;
      loaders.push(loaderOf(stage.data, stage.seed ?? seed));
    }
    const loader = loaders[source];
    const { seqLen, numSamples } = loader.dataset;
    if (!Number.isInteger(seqLen) || seqLen < 1 || seqLen > LIMITS.seqLen) {
      fail(stage, `its data has ${seqLen} tokens per sequence, expected an integer from 1 to ${LIMITS.seqLen}`);
    }
    if (config && seqLen > config.maxPositionEmbeddings) {
      fail(
        stage,
        `its data has ${seqLen} tokens per sequence, but the model takes at most ${config.maxPositionEmbeddings}`,
      );
    }
    const tokensPerStep = stage.globalBatchSize * seqLen;
    const steps = stepsOf(stage.end, stage.globalBatchSize, tokensPerStep, numSamples);
    if (steps !== null && steps > LIMITS.steps) {
      fail(stage, `${JSON.stringify(stage.end)} are ${steps} steps, at most ${LIMITS.steps} are possible`);
    }
    if (stage.optimizer !== undefined) optimizerFrom = index;
    return {
      stage,
      index,
      loader,
      source,
      seed: stage.seed ?? seed,
      steps,
      tokensPerStep,
      optimizerFrom,
      optimizer: stages[optimizerFrom].optimizer ?? adamw(),
      info: {
        name: stage.name,
        kind: stage.kind,
        steps,
        globalBatchSize: stage.globalBatchSize,
        seqLen,
        positionsPerToken: stage.positionsPerToken,
      },
      warnings: stageWarnings(stage, steps, loader.dataset),
    };
  });
  checkRates(planned);
  return planned;
}

/**
 * Warnings about probable mistakes in a stage of `steps` steps.
 *
 * @throws TrainError TRAIN_OPTIONS for a schedule that does not fit the stage
 */
function stageWarnings(stage: Stage, steps: number | null, dataset: Dataset): string[] {
  const { error, warning } = (steps !== null && stage.schedule?.check?.(steps)) || {};
  if (error !== undefined) fail(stage, `its learning-rate schedule: ${error}`);
  const own = warning === undefined ? [] : [`its learning-rate schedule: ${warning}`];
  return [...own, ...(stage.check?.(steps, dataset) ?? [])].map((text) => `stage '${stage.name}': ${text}`);
}

function loaderOf(data: StageData, seed: number): Loader {
  if (data instanceof Loader) return data;
  return "loader" in data ? data.loader : new Loader(data, { seed });
}

function stepsOf(end: StageEnd, globalBatchSize: number, tokensPerStep: number, numSamples: number): number | null {
  if ("steps" in end) return end.steps;
  if ("tokens" in end) return Math.ceil(end.tokens / tokensPerStep);
  if ("epochs" in end) return Math.ceil((end.epochs * numSamples) / globalBatchSize);
  return null;
}

// stage() and the other factories have checked their stages already; a literal has not been checked.
const literalSchema = z.looseObject({
  name: z.string().min(1),
  objective: z.custom((value) => typeof value === "function", { error: "expected a function" }),
  data: z.custom((value) => typeof value === "object" && value !== null, { error: "expected data" }),
  end: z.union([
    z.strictObject({ steps: z.int().min(1).max(LIMITS.steps) }),
    z.strictObject({ tokens: z.number().positive() }),
    z.strictObject({ epochs: z.number().positive() }),
    z.strictObject({ minutes: z.number().positive().max(LIMITS.minutes) }),
  ]),
  globalBatchSize: z.int().min(1).max(LIMITS.globalBatchSize),
  gradientAccumulationSteps: z.int().min(1).max(LIMITS.gradientAccumulationSteps),
  maxGradNorm: z.number().positive().nullable(),
  positionsPerToken: z.number().positive(),
});

function checkStages(stages: readonly Stage[]): void {
  if (stages.length === 0) throw new TrainError("TRAIN_OPTIONS", "a curriculum needs at least one stage");
  const names = new Set<string>();
  const checkpoints = new Set(["final"]);
  for (const [index, stage] of stages.entries()) {
    parseOptions(`stage ${index}`, literalSchema, stage);
    if (names.has(stage.name)) fail(stage, "another stage has this name");
    names.add(stage.name);
    if (stage.globalBatchSize % stage.gradientAccumulationSteps !== 0) {
      fail(
        stage,
        `globalBatchSize ${stage.globalBatchSize} cannot be cut into ${stage.gradientAccumulationSteps} equal micro-batches`,
      );
    }
    const { checkpoint } = stage;
    if (checkpoint === undefined) continue;
    const isLast = index === stages.length - 1;
    if (checkpoints.has(checkpoint) && !(checkpoint === "final" && isLast)) {
      fail(stage, `the checkpoint name '${checkpoint}' is taken`);
    }
    checkpoints.add(checkpoint);
  }
}

/**
 * Computes the first and last learning rate of every schedule, so that a stage with a learning rate of zero is found
 * before the run and not after days of it.
 */
function checkRates(planned: readonly PlannedStage[]): void {
  let previous: number | undefined;
  let highest = 0;
  for (const { stage, steps } of planned) {
    if (stage.schedule === undefined) {
      if (previous === undefined) fail(stage, "the first stage needs a learning rate: give lr");
      if (previous < 0.01 * highest) {
        const rate = previous.toPrecision(2);
        fail(stage, `it has no lr, and the previous stage ends with ${rate}, which is too low to train with: give lr`);
      }
    }
    const context = { steps: steps ?? NOMINAL_STEPS, previous };
    const rates = [0, Math.floor(context.steps / 2), context.steps - 1].map((step) => rateAt(stage, step, context));
    highest = Math.max(highest, ...rates);
    previous = rates[2];
  }
}

/**
 * The learning rate of a stage's step.
 *
 * @throws TrainError TRAIN_OPTIONS if a user's schedule throws or does not return a valid rate
 */
export function rateAt(stage: Stage, step: number, context: { steps: number; previous?: number }): number {
  let rate: number;
  try {
    rate = stage.schedule ? stage.schedule(step, context) : (context.previous as number);
  } catch (error) {
    throw failureOf("TRAIN_OPTIONS", `stage '${stage.name}': its learning-rate schedule, at step ${step}`, error);
  }
  if (typeof rate !== "number" || !(rate >= 0 && Number.isFinite(rate))) {
    fail(stage, `its schedule returns ${String(rate)} at step ${step}`);
  }
  return rate;
}

function fail(stage: Stage, problem: string): never {
  throw new TrainError("TRAIN_OPTIONS", `stage '${stage.name}': ${problem}`);
}

/** Description of a run, for its first event. */
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

let known: Record<string, string> | undefined;

/** The versions of this package, of libtorch and of Node, which a run records. */
export function versions(): Record<string, string> {
  known ??= { "stable-diffcoder": packageVersion(), libtorch: torch.build().torch, node: process.versions.node };
  return known;
}
