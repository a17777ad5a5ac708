import { performance } from "node:perf_hooks";
import { CheckpointError } from "../model/index.js";
import type { ParallelModel } from "../parallel/index.js";
import type { CheckpointContent, CheckpointStore, PendingCheckpoint, ShardReport } from "./checkpoint.js";
import type { Position } from "./events.js";

/** How a checkpoint that was begun ended. */
export interface SaveOutcome {
  name: string;
  position: Position;
  seconds: number;
  /** Its folder; absent if it could not be written. */
  path?: string;
  problem?: string;
  /** This process's error, where it had one. */
  cause?: unknown;
}

/** What each process says of the checkpoint under way, once a step. JSON. */
export interface SaveNote {
  /** This process's part is written. */
  report?: ShardReport;
  /** It cannot be. */
  problem?: string;
  /** Of rank 0: the checkpoint is in its place, or could not be put there. */
  committed?: { path?: string; problem?: string };
}

interface UnderWay {
  pending: PendingCheckpoint;
  position: Position;
  start: number;
  /** Of rank 0. */
  committed?: { path?: string; problem?: string };
  committing: boolean;
  commitError?: unknown;
}

/**
 * Saves checkpoints while training goes on. The processes of a run each write their part; what they know of it travels with
 * the small message that every step exchanges anyway, so that nobody waits. One checkpoint is under way at a time.
 */
export class CheckpointSaver {
  readonly #store: CheckpointStore;
  readonly #parallel: ParallelModel;
  #underWay: UnderWay | undefined;

  constructor(store: CheckpointStore, parallel: ParallelModel) {
    this.#store = store;
    this.#parallel = parallel;
  }

  get isBusy(): boolean {
    return this.#underWay !== undefined;
  }

  /**
   * Copies everything as it is now and has it written. All processes call it at the same step; none may be under way.
   *
   * @returns how it ended, where it ended at once because a process could not even begin
   */
  async begin(name: string, content: CheckpointContent, position: Position): Promise<SaveOutcome | undefined> {
    const start = performance.now();
    let pending: PendingCheckpoint | undefined;
    let problem: string | undefined;
    let cause: unknown;
    try {
      pending = await this.#store.begin(name, content);
    } catch (error) {
      cause = error;
      problem = messageOf(error);
    }
    const problems = (await this.#parallel.exchange("beginning a checkpoint", problem ?? null)).flatMap(
      (each) => each ?? [],
    );
    if (pending && problems.length === 0) {
      this.#underWay = { pending, position, start, committing: false };
      return undefined;
    }
    await pending?.abort();
    return { name, position, seconds: (performance.now() - start) / 1000, problem: problems[0], cause };
  }

  /** To be told to all processes with the next step. */
  note(): SaveNote | undefined {
    if (!this.#underWay) return undefined;
    const { pending, committed } = this.#underWay;
    const problem = pending.error?.message;
    return { ...(problem !== undefined && { problem }), report: pending.report(), ...(committed && { committed }) };
  }

  /** Takes in everybody's note. */
  async observe(notes: readonly (SaveNote | undefined)[]): Promise<SaveOutcome | undefined> {
    const underWay = this.#underWay;
    if (!underWay) return undefined;
    const { pending, position, start } = underWay;
    const outcome = (rest: { path?: string; problem?: string }): SaveOutcome => {
      this.#underWay = undefined;
      const cause = pending.error ?? underWay.commitError;
      return { name: pending.name, position, seconds: (performance.now() - start) / 1000, ...rest, cause };
    };
    const { committed } = notes[0] ?? {};
    if (committed) return outcome(committed);
    const settled = notes.every((note) => note?.report !== undefined || note?.problem !== undefined);
    if (!settled) return undefined;
    const problem = notes.find((note) => note?.problem !== undefined)?.problem;
    if (problem !== undefined) {
      await pending.abort();
      return outcome({ problem });
    }
    if (this.#parallel.isMain && !underWay.committing) {
      underWay.committing = true;
      const reports = notes.map((note) => note?.report as ShardReport);
      void this.#commit(underWay, reports);
    }
    return undefined;
  }

  async #commit(underWay: UnderWay, reports: ShardReport[]): Promise<void> {
    try {
      underWay.committed = { path: await this.#store.commit(underWay.pending, reports) };
    } catch (error) {
      underWay.commitError = error;
      underWay.committed = { problem: messageOf(error) };
    }
  }

  /** Waits until the checkpoint under way has ended, one way or the other. All processes call it. */
  async drain(): Promise<SaveOutcome | undefined> {
    this.#underWay?.pending.hurry();
    while (this.#underWay) {
      const outcome = await this.observe(await this.#parallel.exchange("waiting for a checkpoint", this.note()));
      if (outcome) return outcome;
      await new Promise((done) => setTimeout(done, 2));
    }
    return undefined;
  }

  /** Gives up what is under way, after a failure, and waits for the threads. */
  async close(): Promise<void> {
    await this.#underWay?.pending.abort();
    this.#underWay = undefined;
    await this.#store.close();
  }
}

function messageOf(error: unknown): string {
  if (error instanceof CheckpointError || error instanceof Error) return error.message;
  return String(error);
}
