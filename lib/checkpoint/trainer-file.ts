import * as z from "zod";

const count = z.int().min(0);
/** A number that may be NaN, which JSON does not have: it is written as null. */
const norm = z
  .number()
  .nullable()
  .transform((value) => value ?? Number.NaN)
  .optional();

const progressSchema = z.object({
  /** The current stage, and the optimiser steps done in it. After the last stage, its index is the number of stages. */
  stage: count,
  step: count,
  globalStep: count,
  /** First unread position of each source of data. */
  positions: z.array(count),
  /** Clean tokens and seconds of training, of the run and of the stage. */
  tokens: count,
  elapsed: z.number(),
  stageTokens: count,
  stageSeconds: z.number(),
  /** The objective's own state, such as an adaptive warmup's. */
  objective: z.record(z.string(), z.unknown()),
  /** Learning rate of the last step, and the one that the stage before ended with. */
  rate: z.number().optional(),
  previousRate: z.number().optional(),
  /** Gradient norm of the last step. */
  gradNorm: norm,
  /** Steps that were skipped because a number was not finite: in all, and in a row up to now. */
  skipped: z.object({ total: count, inARow: count }),
});

/** The state of a run besides weights and optimiser: JSON, and enough to resume bit for bit. */
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

/** What must be equal for a run to resume. */
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
