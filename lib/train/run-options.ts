import * as z from "zod";
import type { StableDiffCoder } from "../checkpoint/index.js";
import type { Decoder } from "../model/index.js";
import { parallelSchema } from "../parallel/options.js";
import type { Sink } from "./sinks/sink.js";

/**
 * Upper limits of a stage's sizes. They are larger than any real run needs, and small enough that derived sizes fit
 * into memory and are exact as numbers: a typing error is reported and does not exhaust the memory.
 */
export const LIMITS = {
  /** Sequences per step. */
  globalBatchSize: 2 ** 20,
  /** Micro-batches per step. */
  gradientAccumulationSteps: 2 ** 16,
  /** Optimizer steps per stage. */
  steps: 2 ** 31 - 1,
  /** Tokens per sequence. */
  seqLen: 2 ** 24,
  /** Tokens per micro-batch and process. */
  microBatchTokens: 2 ** 27,
  /** Minutes per stage: a century. */
  minutes: 100 * 366 * 24 * 60,
} as const;

const positive = z.int().min(1);

const settings = {
  outputDir: z.string().min(1).optional().describe("folder of the run; without one nothing is saved"),
  device: z
    .string()
    .regex(/^(cpu|cuda(:\d+)?)$/, 'expected "cpu", "cuda" or "cuda:NUMBER"')
    .optional()
    .describe("device to train on: cpu, cuda or cuda:NUMBER; default: the model's own"),
  seed: z.int().min(0).default(0).describe("random seed of data order, corruption and torch's generator"),
  resume: z
    .boolean()
    .default(false)
    .describe("resume from the newest undamaged checkpoint in the folder, if there is one"),
  overwrite: z
    .boolean()
    .default(false)
    .describe("start over in a folder that holds a run; its checkpoints are removed"),
  checkpointEvery: z
    .strictObject({ steps: positive.optional(), minutes: z.number().positive().optional() })
    .default({ minutes: 15 })
    .describe(
      "interval of checkpoints besides those at the end of each stage, in `steps` or in `minutes`; an empty object: never",
    ),
  keepLatest: positive.default(2).describe("number of unnamed checkpoints to keep; named ones are always kept"),
  asyncCheckpoint: z
    .boolean()
    .default(true)
    .describe("train while a checkpoint is being written; the end of a stage waits for its own"),
  retrySaving: z
    .number()
    .min(0)
    .max(LIMITS.minutes)
    .default(60)
    .describe("minutes for which the last checkpoint of a run is retried if it cannot be written"),
  strict: z.boolean().default(false).describe("end the run when a checkpoint cannot be written, instead of a warning"),
  maxSkipped: z
    .int()
    .min(0)
    .default(10)
    .describe(
      "number of consecutive steps without a finite loss and gradient after which the run ends; each is skipped",
    ),
  deterministic: z
    .boolean()
    .default(false)
    .describe("use only operators that give the same bits every time; others are refused"),
  dataWorkers: z
    .union([z.literal("auto"), z.int().min(0).max(16)])
    .default("auto")
    .describe("number of threads that read batches ahead, at most 16; 0: none; auto: one if reading is slow"),
  parallel: parallelSchema
    .prefault({})
    .describe("how the model and the batches are distributed over the processes of a run"),
  peakFlops: z
    .number()
    .positive()
    .optional()
    .describe(
      "peak floating-point operations per second of the device, for `mfu`; default: from a table of known devices",
    ),
};

/** The options of a run that a curriculum file can set, too. */
export const runSettingsSchema = z.strictObject(settings);

export const runOptionsSchema = z.strictObject({
  ...settings,
  model: z
    // Recognized by its config, not by its class: the command line reads this schema without loading the addon.
    .custom<Decoder | StableDiffCoder>((value) => (value as Partial<Decoder> | null)?.config !== undefined, {
      error: "expected a StableDiffCoder or a Decoder",
    })
    .describe("model to train, a `StableDiffCoder` or a `Decoder`; it is changed in place"),
  signal: z.instanceof(AbortSignal).optional().describe("signal that ends the run after the current step and a save"),
  sinks: z
    .array(z.custom<Sink>((value) => typeof (value as Sink | null)?.write === "function", { error: "expected sinks" }))
    .optional()
    .describe(
      "sinks that receive the events besides the iterator; default: metrics.jsonl and report.html in `outputDir`",
    ),
});

/** Options of {@link Curriculum.run}. */
export type RunOptions = z.input<typeof runOptionsSchema>;
export type RunSettings = z.output<typeof runOptionsSchema>;
