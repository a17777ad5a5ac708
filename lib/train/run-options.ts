import * as z from "zod";
import type { StableDiffCoder } from "../checkpoint/index.js";
import type { Decoder } from "../model/index.js";
import { parallelSchema } from "../parallel/options.js";
import type { Sink } from "./sinks/sink.js";

/**
 * Largest sizes that a stage takes. Beyond what any run was ever made with, and small enough that what is computed from
 * them fits memory and exact numbers: a slip of the finger is an error, not a machine without memory.
 */
export const LIMITS = {
  /** Sequences of a step. */
  globalBatchSize: 2 ** 20,
  /** Micro-batches of a step. */
  gradientAccumulationSteps: 2 ** 16,
  /** Optimiser steps of a stage. */
  steps: 2 ** 31 - 1,
  /** Tokens of a sequence. */
  seqLen: 2 ** 24,
  /** Tokens of one micro-batch of one process. */
  microBatchTokens: 2 ** 27,
  /** Of a stage: a century. */
  minutes: 100 * 366 * 24 * 60,
} as const;

const positive = z.int().min(1);

const settings = {
  outputDir: z.string().min(1).optional().describe("the run's folder; without one nothing is saved"),
  device: z
    .string()
    .regex(/^(cpu|cuda(:\d+)?)$/, 'expected "cpu", "cuda" or "cuda:NUMBER"')
    .optional()
    .describe("the model is moved there; default: where it is"),
  seed: z.int().min(0).default(0).describe("of data order, corruption and torch's generator"),
  resume: z.boolean().default(false).describe("go on from the folder's newest whole checkpoint, if it has any"),
  overwrite: z
    .boolean()
    .default(false)
    .describe("begin anew in a folder that holds a run; its checkpoints are removed"),
  checkpointEvery: z
    .strictObject({ steps: positive.optional(), minutes: z.number().positive().optional() })
    .default({ minutes: 15 })
    .describe("besides each stage's end; {} for never"),
  keepLatest: positive.default(2).describe("unnamed checkpoints that stay"),
  asyncCheckpoint: z
    .boolean()
    .default(true)
    .describe("train on while a checkpoint is written; the end of a stage waits for its own"),
  retrySaving: z
    .number()
    .min(0)
    .max(LIMITS.minutes)
    .default(60)
    .describe("minutes for which the last checkpoint of a run is retried if it cannot be written"),
  strict: z.boolean().default(false).describe("end the run when a checkpoint cannot be written"),
  maxSkipped: z
    .int()
    .min(0)
    .default(10)
    .describe("steps in a row without a finite loss and gradient before the run ends"),
  deterministic: z
    .boolean()
    .default(false)
    .describe("only operators that repeat bit for bit; whatever cannot be repeated is refused"),
  dataWorkers: z
    .union([z.literal("auto"), z.int().min(0).max(16)])
    .default("auto")
    .describe("threads that read batches ahead; auto: one where reading takes long"),
  parallel: parallelSchema.prefault({}).describe("how model and batches lie over the processes of a run"),
  peakFlops: z.number().positive().optional().describe("operations a second that MFU is measured against"),
};

/** The options of a run that a file can hold, too. */
export const runSettingsSchema = z.strictObject(settings);

export const runOptionsSchema = z.strictObject({
  ...settings,
  model: z
    // Told by its config, not by its class: the command line makes flags of these options, also without the addon.
    .custom<Decoder | StableDiffCoder>((value) => (value as Partial<Decoder> | null)?.config !== undefined, {
      error: "expected a StableDiffCoder or a Decoder",
    })
    .describe("what is trained, in place"),
  signal: z.instanceof(AbortSignal).optional().describe("ends the run after the step at hand, and saves"),
  sinks: z
    .array(z.custom<Sink>((value) => typeof (value as Sink | null)?.write === "function", { error: "expected sinks" }))
    .optional()
    .describe("where events go besides the iterator; default: metrics.jsonl and report.html in `outputDir`"),
});

/** What {@link Curriculum.run} takes. */
export type RunOptions = z.input<typeof runOptionsSchema>;
export type RunSettings = z.output<typeof runOptionsSchema>;
