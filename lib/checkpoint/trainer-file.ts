import * as z from "zod";

const count = z.int().min(0);
/** A number that may be NaN, which is null in JSON. */
const norm = z
  .number()
  .nullable()
  .transform((value) => value ?? Number.NaN)
  .optional();

const progressSchema = z.object({
  /**
   * Index of the current stage, and the optimizer steps done in it. After the last stage the index is the number of
   * stages.
   */
  stage: count,
  step: count,
  globalStep: count,
  /** First unread position of each data source. */
  positions: z.array(count),
  /** Clean tokens and seconds of training, in the run and in the stage. */
  tokens: count,
  elapsed: z.number(),
  stageTokens: count,
  stageSeconds: z.number(),
  /** State of the objective, such as that of an adaptive warmup. */
  objective: z.record(z.string(), z.unknown()),
  /** Learning rate of the last step, and the final one of the previous stage. */
  rate: z.number().optional(),
  previousRate: z.number().optional(),
  /** Gradient norm of the last step. */
  gradNorm: norm,
  /** Steps skipped because the loss or the gradient was not finite: in total, and in a row up to now. */
  skipped: z.object({ total: count, inARow: count }),
});

/** The state of a run besides weights and optimizer: JSON, sufficient for a bit-identical resume. */
export type Progress = z.output<typeof progressSchema>;

/** The state at the start of a run. */
export function newProgress(sources: number): Progress {
  return {
    stage: 0,
    step: 0,
    globalStep: 0,
    positions: new Array<number>(sources).fill(0),
    tokens: 0,
    elapsed: 0,
    stageTokens: 0,
    stageSeconds: 0,
    objective: {},
    skipped: { total: 0, inARow: 0 },
  };
}

const factsSchema = z.object({
  seed: z.number(),
  model: z.record(z.string(), z.unknown()),
  stages: z.array(z.record(z.string(), z.unknown())),
});

/** Values that must be equal for a run to resume. */
export type RunFingerprint = z.infer<typeof factsSchema>;

/** The content of trainer.json. */
export const trainerSchema = z.object({
  format: z.literal(1),
  savedAt: z.string(),
  versions: z.record(z.string(), z.string()),
  optimizerStep: count.nullable(),
  progress: progressSchema,
  facts: factsSchema,
});

export type TrainerFile = z.input<typeof trainerSchema>;
