import * as z from "zod";
import { isStepCheckpoint } from "../checkpoint/layout.js";
import { type Dataset, Loader } from "../data/index.js";
import { type AutoregressiveOptions, autoregressiveObjective, autoregressiveSchema } from "../diffusion/index.js";
import type { Decoder, Objective } from "../model/index.js";
import { type Schedule, scheduleFrom, scheduleSchema } from "../nn/index.js";
import { parseOptions } from "./errors.js";
import type { TrainingSample } from "./events.js";
import { type OptimizerChoice, optimizerSchema } from "./optimizer.js";
import type { Precision } from "./precision.js";
import { LIMITS } from "./run-options.js";

/** Source of sequences. Stages that share one continue where the previous stage stopped reading. */
export type StageData = Dataset | Loader | { readonly loader: Loader };

/** End of a stage. `minutes` is wall time: such a stage is not bit-reproducible. */
export type StageEnd = { steps: number } | { tokens: number } | { epochs: number } | { minutes: number };

/** Argument of hooks. */
export interface HookContext {
  device: string;
  stage: string;
  step: number;
  globalStep: number;
  signal?: AbortSignal;
}

/** Evaluates the model during training, after every `every` steps and at the end of the stage. */
export interface Evaluate {
  every: number;
  run(model: Decoder, context: HookContext): Record<string, number> | Promise<Record<string, number>>;
}

/** Generates samples during training, after every `every` steps and at the end of the stage. */
export interface Sampling {
  every: number;
  run(model: Decoder, context: HookContext): TrainingSample[] | Promise<TrainingSample[]>;
}

/** A stage of a curriculum, as a plain object. {@link stage} makes one with defaults; an object literal works, too. */
export interface Stage {
  readonly name: string;
  /** Kind of stage, for messages and logs. */
  readonly kind: string;
  readonly data: StageData;
  readonly objective: Objective;
  readonly end: StageEnd;
  /** The learning rate; default: the final rate of the previous stage. */
  readonly schedule?: Schedule;
  /** Default: the optimizer of the previous stage with its state; in the first stage AdamW. */
  readonly optimizer?: OptimizerChoice;
  /** Sequences per optimizer step, over all micro-batches and processes. */
  readonly globalBatchSize: number;
  /** Micro-batches per step. It affects memory, not results. */
  readonly gradientAccumulationSteps: number;
  /** Gradients are scaled down to this L2 norm; null: no clipping. */
  readonly maxGradNorm: number | null;
  readonly precision: Precision;
  /** Random seed of data order and corruption; default: the run's. */
  readonly seed?: number;
  /** Name of the checkpoint of the end of the stage, which is kept. */
  readonly checkpoint?: string;
  readonly evaluate?: Evaluate;
  readonly sample?: Sampling;
  /** Positions that the model computes per clean token: 2 for block diffusion, which runs over [x_t ; x_0]. */
  readonly positionsPerToken: number;
  /**
   * Returns probable mistakes in a stage of `steps` steps over this dataset; each line becomes a warning at the start
   * of the run. `steps` is null if the stage ends after a number of minutes.
   */
  readonly check?: (steps: number | null, dataset: Dataset) => string[];
  /** JSON that must be the same when a run resumes from a checkpoint, besides the fields above. */
  readonly fingerprint?: unknown;
}

const isFunction = (value: unknown) => typeof value === "function";
const isDataset = (value: unknown) =>
  typeof (value as Partial<Dataset> | null)?.sample === "function" &&
  typeof (value as Dataset).numSamples === "number" &&
  typeof (value as Dataset).seqLen === "number";
const isData = (value: unknown) =>
  value instanceof Loader || isDataset(value) || (value as { loader?: unknown } | null)?.loader instanceof Loader;
const isHook = (value: unknown) => {
  const hook = value as Partial<Evaluate> | null;
  return typeof hook?.run === "function" && Number.isInteger(hook.every) && (hook.every as number) > 0;
};

const positive = z.int().min(1);
const fileName = z
  .string()
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9._-]*$/,
    "letters, digits, dots, dashes and underscores, starting with a letter or digit",
  );

/** The options of a stage that a curriculum file can set, too. */
export const stageSettings = {
  name: z.string().trim().min(1).max(60).describe("name of the stage, unique in the curriculum"),
  steps: positive.max(LIMITS.steps).optional().describe("end after this many optimizer steps"),
  tokens: z.number().positive().optional().describe("end after this many clean tokens"),
  epochs: z.number().positive().optional().describe("end after this many passes over the data"),
  minutes: z
    .number()
    .positive()
    .max(LIMITS.minutes)
    .optional()
    .describe("end after this many minutes of wall time; such a stage cannot be repeated bit for bit"),
  lr: z
    .union([
      z.custom<Schedule>(isFunction, { error: "a schedule function" }),
      scheduleSchema.transform((config) => scheduleFrom(config)),
    ])
    .optional()
    .describe(
      "learning rate: a number, a schedule, or the data of one; default: the rate at the end of the previous stage; " +
        "required in the first stage, except for `supervised` (2e-5 after a short warmup)",
    ),
  optimizer: optimizerSchema
    .optional()
    .describe(
      "optimizer: `adamw({...})`, `muon({...})`, `sgd({...})`, their data, or a function of the model that returns one; default: that " +
        "of the previous stage with its state, `adamw()` in the first stage",
    ),
  globalBatchSize: positive
    .max(LIMITS.globalBatchSize)
    .default(8)
    .describe("number of sequences in one optimizer step, over all processes"),
  gradientAccumulationSteps: positive
    .max(LIMITS.gradientAccumulationSteps)
    .default(1)
    .describe("number of micro-batches in a step; it changes memory use, not results"),
  maxGradNorm: z
    .number()
    .positive()
    .nullable()
    .default(1)
    .describe("maximum gradient norm (L2), to which gradients are scaled down; `null`: no limit"),
  precision: z
    .enum(["auto", "float32", "bfloat16"])
    .default("auto")
    .describe("data type of the forward pass: float32, bfloat16, or auto, bfloat16 if the hardware multiplies it"),
  seed: z.int().min(0).optional().describe("random seed of data order and corruption; default: the run's"),
  checkpoint: fileName
    .refine((name) => !isStepCheckpoint(name), "step-NUMBER is reserved for periodic checkpoints")
    .optional()
    .describe(
      "name under which the checkpoint at the end of the stage is kept; default: none, `final` for the last stage",
    ),
};

/** The options of a stage that exist in TypeScript only. */
export const stageValues = {
  data: z
    .custom<StageData>(isData, { error: "expected a Dataset, a Loader or the result of prepareData" })
    .describe("training data: a `Dataset`, a `Loader` or the result of `prepareData`"),
  evaluate: z
    .custom<Evaluate>(isHook, { error: "expected { every: steps, run: function }" })
    .optional()
    .describe("`{ every, run }`: call `run` to measure the model every `every` steps and at the end of the stage"),
  sample: z
    .custom<Sampling>(isHook, { error: "expected { every: steps, run: function }" })
    .optional()
    .describe("`{ every, run }`: call `run` to sample from the model every `every` steps and at the end of the stage"),
};

const customShape = {
  ...stageSettings,
  ...stageValues,
  objective: z
    .custom<Objective>(isFunction, { error: "expected a function (model, batch, context)" })
    .describe("function `(model, batch, context)` that returns `{ loss, normalizer, metrics }`"),
  kind: z.string().min(1).optional().describe("name of the objective in logs; default: the function's name"),
  positionsPerToken: z
    .number()
    .positive()
    .default(1)
    .describe("number of positions that the model computes for each clean token, for `positions_per_second`"),
  fingerprint: z.unknown().optional().describe("JSON value that must be the same when a run resumes"),
};

/** The options of {@link stage}. */
export const customStageSchema = withEnd(customShape);
const autoregressiveStageSchema = withEnd({ ...stageSettings, ...stageValues, ...autoregressiveSchema.shape });

/** An object schema with exactly one of the keys that set the end of a stage. */
export function withEnd<Shape extends z.ZodRawShape>(shape: Shape) {
  return z.strictObject(shape).superRefine((value, context) => {
    const given = END_KEYS.filter((key) => (value as Record<string, unknown>)[key] !== undefined);
    if (given.length === 1) return;
    const found = given.length === 0 ? "none" : given.join(" and ");
    context.addIssue({ code: "custom", message: `give exactly one of ${END_KEYS.join(", ")}; found ${found}` });
  });
}

const END_KEYS = ["steps", "tokens", "epochs", "minutes"] as const;

export type StageOptions = z.input<typeof customStageSchema>;
/** Options of a stage whose objective is given. */
export type ObjectiveStageOptions = Omit<StageOptions, "objective" | "kind" | "positionsPerToken" | "fingerprint">;
export type AutoregressiveStageOptions = ObjectiveStageOptions & AutoregressiveOptions;

/**
 * A stage with a custom objective.
 *
 * @throws TrainError TRAIN_OPTIONS with the path and the allowed values, as the other factories do
 */
export function stage(options: StageOptions): Stage {
  return assemble(parseOptions(titleOf("stage", options), customStageSchema, options));
}

/** Next-token prediction: the AR stages of section 3.1. */
export function autoregressive(options: AutoregressiveStageOptions): Stage {
  const parsed = parseOptions(titleOf("autoregressive", options), autoregressiveStageSchema, options);
  const own = pick(parsed, autoregressiveSchema.shape) as AutoregressiveOptions;
  return assemble({
    ...parsed,
    kind: "autoregressive",
    objective: autoregressiveObjective(own),
    positionsPerToken: 1,
    fingerprint: own,
    check: (_, dataset) => unheededBoundaries(options, dataset),
  });
}

/**
 * A warning if a stage isolates documents that its data does not separate.
 *
 * @param options as written, without defaults: the default isolates documents only if the data keeps their boundaries
 */
export function unheededBoundaries(options: AutoregressiveOptions, { keepsDocumentBoundaries }: Dataset): string[] {
  if (options.crossDocumentAttention !== false || keepsDocumentBoundaries !== false) return [];
  return [
    "crossDocumentAttention: false has no effect, because the data has no document boundaries: set keepDocumentBoundaries: true in the data's options",
  ];
}

/** The parsed options of a stage, with the values that its factory adds. */
export type ParsedStage = Omit<z.output<typeof customStageSchema>, "fingerprint"> & {
  fingerprint?: unknown;
  check?: Stage["check"];
};

/** The stage of parsed options. */
export function assemble(parsed: ParsedStage): Stage {
  const {
    name,
    data,
    objective,
    globalBatchSize,
    gradientAccumulationSteps,
    maxGradNorm,
    precision,
    positionsPerToken,
  } = parsed;
  const { steps, tokens, epochs, minutes } = parsed;
  const ends = { steps, tokens, epochs, minutes };
  const end = Object.fromEntries(Object.entries(ends).filter(([, value]) => value !== undefined)) as StageEnd;
  return {
    name,
    kind: parsed.kind ?? (objective.name || "custom"),
    data,
    objective,
    end,
    schedule: parsed.lr,
    optimizer: parsed.optimizer,
    globalBatchSize,
    gradientAccumulationSteps,
    maxGradNorm,
    precision,
    seed: parsed.seed,
    checkpoint: parsed.checkpoint,
    evaluate: parsed.evaluate,
    sample: parsed.sample,
    positionsPerToken,
    fingerprint: parsed.fingerprint,
    check: parsed.check,
  };
}

/** The values whose keys a shape has, in their order. */
export function pick(values: Record<string, unknown>, shape: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).filter(([key]) => key in shape));
}

/** Names a stage in errors: its factory and its name. */
export function titleOf(factory: string, options: unknown): string {
  const name = (options as { name?: unknown } | null)?.name;
  return typeof name === "string" ? `${factory} '${name}'` : factory;
}
