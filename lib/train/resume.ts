import {
  CheckpointError,
  type CheckpointStore,
  type FoundCheckpoint,
  loadOptimizerSlices,
  loadWeightSlices,
  type Progress,
  type RunFingerprint,
} from "../checkpoint/index.js";
import type { Optimizer } from "../nn/index.js";
import type { ParallelModel } from "../parallel/index.js";
import { TrainError } from "./errors.js";
import type { RunSettings } from "./run-options.js";

/**
 * Checks that the folder is free for this run, or finds the checkpoint to resume from. All processes of a run call it
 * alike.
 *
 * @param store checkpoint store of the run; undefined for a run without a folder
 * @param warn receives a message for each damaged checkpoint that was skipped
 * @throws TrainError TRAIN_RUN_EXISTS, TRAIN_CHECKPOINT_CORRUPT
 */
export async function findStart(
  { resume, overwrite, outputDir }: RunSettings,
  parallel: ParallelModel,
  store: CheckpointStore | undefined,
  warn: (message: string) => void,
): Promise<FoundCheckpoint | undefined> {
  if (!store) return undefined;
  if (resume) return newest(store, parallel, warn);
  const isEmpty = (await parallel.exchange("looking for a run", store.isEmpty)).every(Boolean);
  if (isEmpty) return undefined;
  if (!overwrite) {
    const hint = "use resume: true to continue it, overwrite: true to start over, or choose another folder";
    throw new TrainError("TRAIN_RUN_EXISTS", `${outputDir} already holds a run: ${hint}`);
  }
  if (parallel.isMain) store.clear();
  await parallel.exchange("removing a run", null);
  return undefined;
}

async function newest(
  store: CheckpointStore,
  parallel: ParallelModel,
  warn: (message: string) => void,
): Promise<FoundCheckpoint | undefined> {
  const exchange = <T>(topic: string, value: T) => parallel.exchange(topic, value);
  try {
    return await store.newest(warn, parallel.world && exchange);
  } catch (error) {
    if (!(error instanceof CheckpointError) || error.code !== "CHECKPOINT_CORRUPT") throw error;
    throw new TrainError("TRAIN_CHECKPOINT_CORRUPT", error.message, { cause: error });
  }
}

/** Copies a checkpoint's weights into this process's part of the model. */
export function restoreWeights({ path }: FoundCheckpoint, parallel: ParallelModel): Promise<void> {
  return loadWeightSlices(parallel.local(), path);
}

/**
 * Copies a checkpoint's optimizer state into this process's part of it. A checkpoint without an optimizer changes
 * nothing.
 */
export async function restoreOptimizer(
  { path, optimizerStep: step }: FoundCheckpoint,
  parallel: ParallelModel,
  optimizer: Optimizer,
): Promise<void> {
  if (step === null) return;
  const { tensors } = optimizer.stateDict();
  await loadOptimizerSlices(parallel.localState(tensors), path);
  optimizer.loadStateDict({ step, tensors });
}

/**
 * Compares a checkpoint with the run that resumes from it: seed, model, and every stage that had started. Later stages
 * may change.
 *
 * @throws TrainError TRAIN_RESUME_MISMATCH listing the differences
 */
export function requireSameFingerprint(
  checkpoint: { path: string; progress: Progress; facts: RunFingerprint },
  now: RunFingerprint,
): void {
  const { progress, facts } = checkpoint;
  const begun = progress.step > 0 ? progress.stage + 1 : progress.stage;
  const upTo = ({ stages, ...rest }: RunFingerprint) => ({ ...rest, stages: stages.slice(0, begun) });
  const differences = [...differ("", upTo(facts), upTo(now))];
  if (differences.length === 0) return;
  const list = differences.map((line) => `  ${line}`).join("\n");
  const hint = "Use the same options, or another folder.";
  const title = `the checkpoint ${checkpoint.path} belongs to another run; differences (in the checkpoint, now):`;
  throw new TrainError("TRAIN_RESUME_MISMATCH", `${title}\n${list}\n${hint}`);
}

/** Yields the leaves in which two JSON values differ, as "path: before, now". */
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
  return value === undefined ? "absent" : JSON.stringify(value);
}
