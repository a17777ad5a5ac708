import * as z from "zod";
import { TrainError } from "../errors.js";

const count = z.int().min(0);
/** A number that may be none: JSON has no NaN, so it is written as null. */
const norm = z
  .number()
  .nullable()
  .transform((value) => value ?? Number.NaN)
  .optional();

const progressSchema = z.object({
  /** Stage at hand, and optimiser steps done in it. After the last stage, its index is the number of stages. */
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
  /** The objective's own memory, such as where an adaptive warmup stands. */
  objective: z.record(z.string(), z.unknown()),
  /** Learning rate of the last step, and the one that the stage before ended with. */
  rate: z.number().optional(),
  previousRate: z.number().optional(),
  /** Gradient norm of the last step. */
  gradNorm: norm,
  /** Steps that changed nothing because a number was none: in all, and in a row up to now. */
  skipped: z.object({ total: count, inARow: count }),
});

/** All that a run remembers besides weights and optimiser: JSON, and enough to go on bit for bit. */
export type Progress = z.output<typeof progressSchema>;

/** Where every run begins. */
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

/** What must be the same for a run to go on: see {@link checkFacts}. */
export type ResumeFacts = z.infer<typeof factsSchema>;

/** What trainer.json holds. */
export const trainerSchema = z.object({
  format: z.literal(1),
  savedAt: z.string(),
  versions: z.record(z.string(), z.string()),
  optimizerStep: count.nullable(),
  progress: progressSchema,
  facts: factsSchema,
});

export type TrainerFile = z.input<typeof trainerSchema>;

/**
 * Compares a checkpoint with the run that is to go on from it: seed, model, and every stage that was begun. Later stages
 * may be changed at will.
 *
 * @throws TrainError TRAIN_RESUME_MISMATCH listing the differences
 */
export function checkFacts(
  checkpoint: { path: string; progress: Progress; facts: ResumeFacts },
  now: ResumeFacts,
): void {
  const { progress, facts } = checkpoint;
  const begun = progress.step > 0 ? progress.stage + 1 : progress.stage;
  const upTo = ({ stages, ...rest }: ResumeFacts) => ({ ...rest, stages: stages.slice(0, begun) });
  const differences = [...differ("", upTo(facts), upTo(now))];
  if (differences.length === 0) return;
  const list = differences.map((line) => `  ${line}`).join("\n");
  const hint = "Use the same options, or another folder.";
  const title = `the checkpoint ${checkpoint.path} is of another run; in the checkpoint, and now:`;
  throw new TrainError("TRAIN_RESUME_MISMATCH", `${title}\n${list}\n${hint}`);
}

/** The leaves in which two JSON values differ, as "path: before, now". */
function* differ(path: string, before: unknown, now: unknown): Generator<string> {
  const isTree = (value: unknown) => typeof value === "object" && value !== null;
  if (isTree(before) && isTree(now)) {
    const [a, b] = [before as Record<string, unknown>, now as Record<string, unknown>];
    for (const key of new Set([...Object.keys(a), ...Object.keys(b)])) {
      const inner = Array.isArray(before) ? `${path}[${key}]` : path === "" ? key : `${path}.${key}`;
      yield* differ(inner, a[key], b[key]);
    }
  } else if (before !== now) {
    yield `${path}: ${show(before)}, ${show(now)}`;
  }
}

function show(value: unknown): string {
  return value === undefined ? "not there" : JSON.stringify(value);
}
