import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import * as z from "zod";
import { type Decoder, loadWeights, replaceFolder, writeCheckpoint } from "../model/index.js";
import type { Optimizer } from "../nn/index.js";
import * as torch from "../torch/index.js";
import { TrainError } from "./errors.js";
import { findDamage, writeManifest } from "./manifest.js";

const TRAINER_FILE = "trainer.json";
const OPTIMIZER_FILE = "optimizer.safetensors";

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

const trainerSchema = z.object({
  format: z.literal(1),
  savedAt: z.string(),
  versions: z.record(z.string(), z.string()),
  optimizerStep: count.nullable(),
  progress: progressSchema,
  facts: factsSchema,
});

/** What a checkpoint is made of. */
export interface CheckpointState {
  model: Decoder;
  /** A folder with the tokenizer's files, copied along. */
  filesFrom?: string;
  optimizer: Optimizer | null;
  progress: Progress;
  facts: ResumeFacts;
  versions: Record<string, string>;
}

/** A whole checkpoint that was found. */
export interface FoundCheckpoint {
  name: string;
  path: string;
  progress: Progress;
  facts: ResumeFacts;
  optimizerStep: number | null;
}

/**
 * The checkpoints of a run, RUN/checkpoints/NAME. Each is a folder in Hugging Face layout (config.json, model.safetensors,
 * tokenizer files), so that `transformers` and our own generate load it as it is, with optimizer.safetensors,
 * trainer.json and manifest.json beside. A folder appears whole or not at all.
 */
export class CheckpointStore {
  readonly folder: string;
  readonly #keepLast: number;

  /** @param keepLast how many of the unnamed checkpoints stay; named ones always do */
  constructor(run: string, keepLast: number) {
    this.folder = join(resolve(run), "checkpoints");
    this.#keepLast = keepLast;
    mkdirSync(this.folder, { recursive: true });
    this.#tidy();
  }

  /** The name of an unnamed checkpoint. */
  static nameOf(globalStep: number): string {
    return `step-${String(globalStep).padStart(6, "0")}`;
  }

  /**
   * Writes a checkpoint beside its place and renames it there; then removes unnamed ones that are too many.
   *
   * @returns its folder
   * @throws CheckpointError CHECKPOINT_WRITE; all earlier checkpoints are as they were
   */
  async save(name: string, state: CheckpointState): Promise<string> {
    const path = join(this.folder, name);
    await replaceFolder(path, async (staging) => {
      await writeCheckpoint(state.model, staging, { filesFrom: state.filesFrom });
      const saved = state.optimizer?.stateDict();
      if (saved) torch.saveSafetensors(join(staging, OPTIMIZER_FILE), saved.tensors);
      const trainer: z.input<typeof trainerSchema> = {
        format: 1,
        savedAt: new Date().toISOString(),
        versions: state.versions,
        optimizerStep: saved?.step ?? null,
        progress: state.progress,
        facts: state.facts,
      };
      writeFileSync(join(staging, TRAINER_FILE), `${JSON.stringify(trainer, null, 2)}\n`);
      await writeManifest(staging);
    });
    this.#prune();
    return path;
  }

  /** Whether anything was saved here. */
  get isEmpty(): boolean {
    return this.#names().length === 0;
  }

  /** Removes all checkpoints. */
  clear(): void {
    for (const name of this.#names()) rmSync(join(this.folder, name), { recursive: true, force: true });
  }

  /**
   * The newest checkpoint that is whole.
   *
   * @param warn is told of every newer one that is torn or changed
   * @returns undefined if there are none at all
   * @throws TrainError TRAIN_CHECKPOINT_CORRUPT if there are some, and none is whole
   */
  async newest(warn: (message: string) => void): Promise<FoundCheckpoint | undefined> {
    const names = this.#names();
    const damaged: string[] = [];
    const readable: FoundCheckpoint[] = [];
    for (const name of names) {
      const found = this.#read(name);
      if (typeof found === "string") damaged.push(`${name}: ${found}`);
      else readable.push(found);
    }
    readable.sort((a, b) => b.progress.globalStep - a.progress.globalStep || b.progress.stage - a.progress.stage);
    for (const found of readable) {
      const damage = await findDamage(found.path);
      if (damage === undefined) {
        for (const problem of damaged) warn(`checkpoint ${problem}: going on from ${found.name}`);
        return found;
      }
      damaged.push(`${found.name}: ${damage}`);
    }
    if (damaged.length === 0) return undefined;
    const list = damaged.map((problem) => `  ${problem}`).join("\n");
    throw new TrainError("TRAIN_CHECKPOINT_CORRUPT", `no checkpoint in ${this.folder} is whole\n${list}`);
  }

  #read(name: string): FoundCheckpoint | string {
    const path = join(this.folder, name);
    const file = join(path, TRAINER_FILE);
    if (!existsSync(file)) return `it has no ${TRAINER_FILE}`;
    let json: unknown;
    try {
      json = JSON.parse(readFileSync(file, "utf8"));
    } catch {
      return `${TRAINER_FILE} is no JSON`;
    }
    const parsed = trainerSchema.safeParse(json);
    if (!parsed.success) return `${TRAINER_FILE} is damaged or of another version`;
    const { progress, facts, optimizerStep } = parsed.data;
    return { name, path, progress, facts, optimizerStep };
  }

  #names(): string[] {
    const entries = readdirSync(this.folder, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory() && !entry.name.startsWith(".")).map((entry) => entry.name);
  }

  #prune(): void {
    const unnamed = this.#names().filter((name) => /^step-\d+$/.test(name));
    unnamed.sort((a, b) => Number(a.slice(5)) - Number(b.slice(5)));
    for (const name of unnamed.slice(0, -this.#keepLast)) {
      rmSync(join(this.folder, name), { recursive: true, force: true });
    }
  }

  /** Puts away what a process left that was killed while saving. Only the holder of the run's lock may. */
  #tidy(): void {
    for (const name of readdirSync(this.folder)) {
      const path = join(this.folder, name);
      const previous = name.match(/^\.(.+)\.previous$/);
      if (previous && !existsSync(join(this.folder, previous[1]))) renameSync(path, join(this.folder, previous[1]));
      else if (previous || /^\..+\.tmp$/.test(name)) rmSync(path, { recursive: true, force: true });
    }
  }
}

/** Copies a checkpoint's weights into a model. */
export async function restoreWeights(checkpoint: FoundCheckpoint, model: Decoder): Promise<void> {
  await loadWeights(model, checkpoint.path);
}

/** Copies a checkpoint's optimiser state into an optimiser of the same kind. */
export function restoreOptimizer(checkpoint: FoundCheckpoint, optimizer: Optimizer): void {
  const { path, optimizerStep } = checkpoint;
  if (optimizerStep === null) return;
  using file = torch.openSafetensors(join(path, OPTIMIZER_FILE));
  torch.scope(() => {
    const tensors = Object.fromEntries(file.keys().map((name) => [name, file.get(name)]));
    optimizer.loadStateDict({ step: optimizerStep, tensors });
  });
}

/**
 * Compares a checkpoint with the run that is to go on from it: seed, model, and every stage that was begun. Later stages
 * may be changed at will.
 *
 * @throws TrainError TRAIN_RESUME_MISMATCH listing the differences
 */
export function checkFacts(checkpoint: FoundCheckpoint, now: ResumeFacts): void {
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
