import { existsSync } from "node:fs";
import { performance } from "node:perf_hooks";
import {
  CheckpointStore,
  type FoundCheckpoint,
  type PendingCheckpoint,
  type Progress,
  type RunFingerprint,
  type ShardReport,
  StableDiffCoder,
} from "../checkpoint/index.js";
import { stepCheckpoint } from "../checkpoint/layout.js";
import type { Optimizer } from "../nn/index.js";
import type { ParallelModel } from "../parallel/index.js";
import { messageOf } from "../torch/errors.js";
import { TrainError } from "./errors.js";
import type { CheckpointEvent, Position, WarningEvent } from "./events.js";
import { versions } from "./plan.js";
import type { RunSettings } from "./run-options.js";

/** Events of checkpoints that were written or could not be written. */
type CheckpointEvents = AsyncGenerator<CheckpointEvent | WarningEvent, void, void>;

/** State of one process's part of the current save, sent to all processes with every step. JSON. */
export interface SaveNote {
  /** Set when this process's part is written. */
  report?: ShardReport;
  /** Why this process's part cannot be written. */
  problem?: string;
  /** Rank 0 only: the checkpoint is committed, or could not be. */
  committed?: { path?: string; problem?: string };
}

interface UnderWay {
  name: string;
  position: Position;
  start: number;
  pending: PendingCheckpoint;
  committing: boolean;
  /** Rank 0 only. */
  committed?: { path?: string; problem?: string };
  commitError?: unknown;
}

/**
 * The checkpoints of one run: when they are due, saving them during training, and handling one that cannot be written.
 * Each process of a run writes its own part. The notes are part of the message that every step exchanges anyway, so
 * that no process waits. One checkpoint is saved at a time. All processes make the same calls. A run without a folder
 * has no checkpoints.
 */
export class RunCheckpoints {
  readonly store: CheckpointStore | undefined;
  readonly #settings: RunSettings;
  readonly #parallel: ParallelModel;
  #underWay: UnderWay | undefined;
  /** The step that was saved last or is being saved, and the time of that save. */
  #saved: { globalStep: number; stage: number; at: number } = { globalStep: 0, stage: 0, at: performance.now() };
  #path: string | undefined;
  /** The last save failed, and an event reported it. */
  #lost = false;
  /** A save is due as soon as possible. */
  #wanted = false;

  constructor(settings: RunSettings, parallel: ParallelModel) {
    const { outputDir, keepLatest } = settings;
    this.#settings = settings;
    this.#parallel = parallel;
    this.store = outputDir === undefined ? undefined : new CheckpointStore(outputDir, keepLatest, parallel.world);
  }

  /** Folder of the newest checkpoint. */
  get path(): string | undefined {
    return this.#path;
  }

  /** Records that the run resumed from this checkpoint. */
  resumedFrom({ path, progress: { globalStep, stage } }: FoundCheckpoint): void {
    this.#saved = { globalStep, stage, at: performance.now() };
    this.#path = path;
  }

  /** Whether a checkpoint is due after `globalStep` steps. */
  isDue(globalStep: number): boolean {
    if (this.#wanted) return true;
    const { steps, minutes } = this.#settings.checkpointEvery;
    if (steps !== undefined && globalStep % steps === 0) return true;
    return minutes !== undefined && performance.now() - this.#saved.at >= minutes * 60_000;
  }

  /**
   * Makes a checkpoint due at the next step, because the earlier ones are gone. Only the call on rank 0 has an effect.
   */
  saveSoon(): void {
    this.#wanted = true;
  }

  /** Stops saving, because another run uses the folder now. */
  abandon(): void {
    this.#lost = true;
  }

  /**
   * Copies the current state and starts to write it; with `asyncCheckpoint: false` waits until it is written. Waits for
   * the previous save first.
   */
  async *save(
    state: { optimizer: Optimizer | undefined; progress: Progress; facts: RunFingerprint },
    position: Position,
    name = stepCheckpoint(state.progress.globalStep),
  ): CheckpointEvents {
    if (!this.store) return;
    this.#wanted = false;
    yield* this.drain();
    const start = performance.now();
    const { globalStep, stage } = state.progress;
    let pending: PendingCheckpoint | undefined;
    let own: string | null = null;
    let cause: unknown;
    try {
      pending = await this.store.begin(name, this.#contentOf(state));
    } catch (error) {
      cause = error;
      own = messageOf(error);
    }
    const problems = await this.#parallel.exchange("starting a checkpoint", own);
    const problem = problems.find((each) => each !== null);
    this.#saved = { globalStep, stage, at: performance.now() };
    if (pending && problem === undefined) {
      this.#underWay = { name, position, start, pending, committing: false };
      if (!this.#settings.asyncCheckpoint) yield* this.drain();
      return;
    }
    await pending?.abort();
    yield this.#failure(position, problem ?? "", cause);
  }

  #contentOf({ optimizer, progress, facts }: Parameters<RunCheckpoints["save"]>[0]) {
    const { model } = this.#settings;
    const coder = model instanceof StableDiffCoder ? model : undefined;
    const state = optimizer?.stateDict();
    return {
      model: this.#parallel.model,
      weights: this.#parallel.local(),
      replicated: this.#parallel.isWhole,
      filesFrom: coder?.hasTokenizer ? coder.tokenizer.dir : coder?.path,
      optimizer: state ? { step: state.step, tensors: this.#parallel.localState(state.tensors) } : null,
      progress,
      facts,
      versions: versions(),
    };
  }

  /** This process's note on the current save, for the message of the next step. */
  note(): SaveNote | undefined {
    if (!this.#underWay) return undefined;
    const { pending, committed } = this.#underWay;
    const problem = pending.error?.message;
    return { ...(problem !== undefined && { problem }), report: pending.report(), ...(committed && { committed }) };
  }

  /** Processes the notes of all processes, by rank. Once all parts are written, rank 0 commits the checkpoint. */
  async *observe(notes: readonly (SaveNote | undefined)[]): CheckpointEvents {
    const underWay = this.#underWay;
    if (!underWay) return;
    const { name, position, start, pending } = underWay;
    const { committed } = notes[0] ?? {};
    const problem = committed ? committed.problem : notes.find((note) => note?.problem !== undefined)?.problem;
    if (!notes.every((note) => committed || note?.report !== undefined || note?.problem !== undefined)) return;
    if (committed?.path !== undefined) {
      this.#underWay = undefined;
      this.#path = committed.path;
      this.#lost = false;
      const seconds = (performance.now() - start) / 1000;
      yield { type: "checkpoint", ...position, checkpoint: name, path: committed.path, seconds };
    } else if (problem !== undefined) {
      if (!committed) await pending.abort();
      this.#underWay = undefined;
      yield this.#failure(position, problem, pending.error ?? underWay.commitError);
    } else if (this.#parallel.isMain && !underWay.committing) {
      underWay.committing = true;
      void this.#commit(
        underWay,
        notes.map((note) => note?.report as ShardReport),
      );
    }
  }

  async #commit(underWay: UnderWay, reports: ShardReport[]): Promise<void> {
    try {
      underWay.committed = { path: await this.store?.commit(underWay.pending, reports) };
    } catch (error) {
      underWay.commitError = error;
      underWay.committed = { problem: messageOf(error) };
    }
  }

  /** Waits until the current save is written or has failed. */
  async *drain(): CheckpointEvents {
    if (!this.#underWay) return;
    this.#parallel.setTimeout(this.#settings.parallel.timeouts.firstStep);
    this.#underWay.pending.expedite();
    for (;;) {
      yield* this.observe(await this.#parallel.exchange("waiting for a checkpoint", this.note()));
      if (!this.#underWay) return;
      await new Promise((done) => setTimeout(done, 2));
    }
  }

  /** The warning event of a save that failed. With `strict` it throws and ends the run. */
  #failure({ globalStep }: Position, problem: string, cause: unknown): WarningEvent {
    this.#lost = true;
    this.#saved.globalStep = -1; // as if it had not started
    if (this.#settings.strict) throw new TrainError("TRAIN_CHECKPOINT_WRITE", problem, { cause });
    const message = `${problem}. Training continues; earlier checkpoints are unchanged`;
    return { type: "warning", globalStep, code: "CHECKPOINT_WRITE", message };
  }

  /** Whether there is progress that no checkpoint holds. */
  isUnsaved({ globalStep, stage }: Progress): boolean {
    return globalStep > 0 && (this.#saved.globalStep !== globalStep || this.#saved.stage !== stage);
  }

  /** Whether the last save failed: another attempt would fail, too. */
  get isLost(): boolean {
    return this.#lost;
  }

  /**
   * Whether all progress of a finished run is saved. Rank 0 checks that the folder of the last checkpoint is still
   * there.
   */
  async isComplete(progress: Progress): Promise<boolean> {
    if (!this.store) return true;
    if (this.#path !== undefined && this.#parallel.isMain && !existsSync(this.#path)) this.#saved.globalStep = -1;
    const own = !this.isUnsaved(progress);
    const [isSaved] = await this.#parallel.exchange("the last checkpoint", own);
    if (!isSaved) this.#saved.globalStep = -1;
    return isSaved;
  }

  /** What a user can do if the last checkpoint cannot be written. */
  get wayOut(): string {
    const { folder = "" } = this.store ?? {};
    return `free space on the disk of ${folder}, or move that folder to another disk and put a symbolic link in its place`;
  }

  /**
   * Throws if progress of a finished run is not saved.
   *
   * @throws TrainError TRAIN_CHECKPOINT_WRITE
   */
  requireSaved(progress: Progress): void {
    if (!this.store || !this.isUnsaved(progress)) return;
    this.#lost = true;
    const message = `the last checkpoint could not be written to ${this.store.folder}`;
    const memory = "The trained model is still in memory: model.savePretrained(FOLDER) saves it elsewhere";
    throw new TrainError("TRAIN_CHECKPOINT_WRITE", `${message}. ${memory}; or ${this.wayOut}`);
  }

  /** Cancels the current save and waits for the threads. */
  async close(): Promise<void> {
    await this.#underWay?.pending.abort();
    this.#underWay = undefined;
    await this.store?.close();
  }
}
