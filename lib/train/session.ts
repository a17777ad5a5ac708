import { setTimeout as sleep } from "node:timers/promises";
import { newProgress, type Progress, type RunFingerprint } from "../checkpoint/index.js";
import { DistributedError } from "../distributed/index.js";
import type { Decoder } from "../model/index.js";
import type { Optimizer } from "../nn/index.js";
import type { ParallelModel } from "../parallel/index.js";
import type { MaskFound } from "./batch-check.js";
import { StageClock } from "./clock.js";
import { TrainError } from "./errors.js";
import type { CheckpointEvent, Position, StepEvent, TrainEvent, WarningEvent } from "./events.js";
import { Meter } from "./meter.js";
import { makeOptimizer } from "./optimizer.js";
import { describeRun, type PlannedStage } from "./plan.js";
import { findStart, requireSameFingerprint, restoreOptimizer, restoreWeights } from "./resume.js";
import { RunCheckpoints, type SaveNote } from "./run-checkpoints.js";
import { currentNames, fingerprintOf } from "./run-fingerprint.js";
import type { RunSettings } from "./run-options.js";
import {
  divergence,
  requireElementwise,
  type StepReport,
  type StepResult,
  skippedMessage,
  Trainer,
} from "./trainer.js";
import { failureOf, settled } from "./user-code.js";
import { checkHookResult, checkState } from "./user-results.js";

/** Message of each process to the others between the two halves of a step. JSON. */
interface StepMessage {
  report: StepReport;
  note: StepNote;
}

/** State, besides the gradients' counts, that processes exchange at every step. */
interface StepNote {
  /** The process's signal is aborted. */
  stop: boolean;
  /** The clock of rank 0 is used. */
  clock: ClockNote;
  save?: SaveNote;
  /** Its batches have mask tokens in their clean text. */
  mask?: MaskFound;
}

interface ClockNote {
  /** Whether the stage is over after this step, and its total steps. */
  isOver: boolean;
  steps: number;
  /** A checkpoint is due. */
  isDue: boolean;
}

/** Pause between two attempts to write the last checkpoint of a run. */
const RETRY_SECONDS = { first: 1, last: 30 };

/** After this many steps without a target at the start of a stage, the data is assumed to have none. */
const HOPELESS_STEPS = 100;

/** Yields warnings about a stage's data, each one once. The same on all processes. */
class DataWatch {
  readonly #planned: PlannedStage;
  #saidMask = false;
  #saidTargets = false;
  #hadTargets: boolean;

  /** @param isResumed whether the stage was resumed in its middle, so that its first steps are not known */
  constructor(planned: PlannedStage, isResumed: boolean) {
    this.#planned = planned;
    this.#hadTargets = isResumed;
  }

  /** @param done steps done in the stage */
  *see(notes: readonly StepNote[], { skipped }: StepResult, done: number): Generator<string, void, void> {
    const { name } = this.#planned.stage;
    const mask = notes.find((note) => note.mask)?.mask;
    if (mask && !this.#saidMask) {
      this.#saidMask = true;
      const where = mask.sample === null ? "a row" : `sample ${mask.sample}`;
      const what = `${where} of the data contains the mask token ${mask.maskId} in its clean text (${mask.count} times)`;
      yield `stage '${name}', step ${done}: ${what}; the model will learn to generate it`;
    }
    if (skipped !== "no targets") this.#hadTargets = true;
    else if (!this.#saidTargets) {
      this.#saidTargets = true;
      yield `stage '${name}', step ${done}: no token of the batch is a target, so the step was skipped. Is the loss mask 0 everywhere?`;
    }
    const steps = this.#planned.steps ?? HOPELESS_STEPS;
    if (this.#hadTargets || done !== Math.min(steps, HOPELESS_STEPS)) return;
    yield `stage '${name}': none of its first ${done} steps had a target, so the model is unchanged`;
  }
}

/** One run of a curriculum in one process, from its start or a checkpoint to its end. */
export class Session {
  readonly #planned: readonly PlannedStage[];
  readonly #settings: RunSettings;
  readonly #model: Decoder;
  readonly #parallel: ParallelModel;
  readonly #checkpoints: RunCheckpoints;
  readonly #fingerprint: RunFingerprint;
  #progress: Progress;
  #optimizer: { instance: Optimizer; madeIn: number } | undefined;
  #clock: StageClock | undefined;
  #trainer: Trainer | undefined;
  /** The run is finished or was stopped in an orderly way. */
  #ended = false;
  /** The checkpoint at the end of the last finished stage. */
  #last: { position: Position; name: string | undefined } | undefined;

  constructor(planned: readonly PlannedStage[], settings: RunSettings, parallel: ParallelModel) {
    this.#planned = planned;
    this.#settings = settings;
    this.#parallel = parallel;
    this.#model = parallel.model;
    this.#checkpoints = new RunCheckpoints(settings, parallel);
    this.#progress = newProgress(new Set(planned.map(({ source }) => source)).size);
    this.#fingerprint = fingerprintOf(this.#model, planned, settings.seed);
  }

  /** Trains and yields the events. This function is the whole run. */
  async *events(): AsyncGenerator<TrainEvent, void, void> {
    yield* this.#begin();
    const progress = this.#progress;
    for (; progress.stage < this.#planned.length; ) {
      const planned = this.#planned[progress.stage];
      const { dataWorkers } = this.#settings;
      const optimizer = this.#optimizerFor(planned);
      const trainer = new Trainer(planned, this.#parallel, optimizer, progress.objective, dataWorkers);
      this.#trainer = trainer;
      const meter = new Meter(planned, this.#parallel, this.#settings.peakFlops);
      this.#clock = new StageClock(planned.stage.end, planned.steps, progress.step, progress.stageSeconds);
      yield { type: "stage-start", ...this.#position(), info: planned.info };
      if (progress.step === 0) for (const message of planned.warnings) yield this.#warning("STAGE", message);
      const watch = new DataWatch(planned, progress.step > 0);
      let { stop, clock } = await this.#agreeToBegin();
      while (!clock.isOver) {
        // A single process needs no exchange: it stops before the next step.
        if (stop || (!this.#parallel.world && this.#settings.signal?.aborted)) return yield* this.#abort();
        const { step, notes } = await this.#step(trainer, clock.steps, planned);
        stop = notes.some((note) => note.stop);
        ({ clock } = notes[0]);
        yield this.#stepEvent(step, meter, clock.steps);
        if (step.skipped === "not finite") {
          yield this.#warning("STEP_SKIPPED", skippedMessage(step, planned, progress.skipped.total));
        }
        for (const message of watch.see(notes, step, progress.step)) yield this.#warning("DATA", message);
        yield* this.#checkpoints.observe(notes.map(({ save }) => save));
        yield* this.#hooks(planned, clock.isOver);
        if (!clock.isOver && clock.isDue) yield* this.#save();
      }
      trainer.close();
      yield* this.#endStage(planned);
    }
    yield* this.#saveForSure();
    this.#ended = true;
    yield { type: "done", globalStep: progress.globalStep, tokens: progress.tokens, elapsed: progress.elapsed };
  }

  /**
   * Saves what is not saved yet if the consumer stops early or an error ends the run; frees the optimizer.
   *
   * @param failed whether an error ended the run. A run of several processes then saves nothing, because a save needs
   *   all of them
   */
  async close({ failed }: { failed: boolean }): Promise<(CheckpointEvent | WarningEvent)[]> {
    const events: (CheckpointEvent | WarningEvent)[] = [];
    const alone = this.#parallel.world === undefined;
    this.#trainer?.close();
    try {
      if (!alone && !failed && !this.#ended) await this.#leaveTogether();
      if (alone || !failed) {
        for await (const event of this.#saveRest()) events.push(event);
      }
    } finally {
      await this.#checkpoints.close();
      this.#model.zeroGrad();
      this.#optimizer?.instance.dispose();
      this.#optimizer = undefined;
    }
    return events;
  }

  async *#saveRest(): AsyncGenerator<CheckpointEvent | WarningEvent, void, void> {
    yield* this.#checkpoints.drain();
    // Weights that an error left partly updated are not saved, and a save that has just failed is not repeated.
    if (!this.#checkpoints.isUnsaved(this.#progress) || this.#trainer?.updating || this.#checkpoints.isLost) return;
    yield* this.#save();
    yield* this.#checkpoints.drain();
  }

  get globalStep(): number {
    return this.#progress.globalStep;
  }

  /**
   * Handles a consumer that stops reading before the end of the run. In a run of several processes all of them must
   * stop.
   *
   * @throws DistributedError DISTRIBUTED_STATE if the others continue
   */
  async #leaveTogether(): Promise<void> {
    this.#parallel.setTimeout(Math.min(10, this.#settings.parallel.timeouts.step));
    try {
      await this.#parallel.exchange("leaving the run", null);
    } catch (error) {
      const message = "stopped reading the run's events, but the other processes did not";
      const remedy = "all processes must read the events to the end or stop at the same event";
      throw new DistributedError("DISTRIBUTED_STATE", `${message}: ${remedy}`, { cause: error });
    }
    this.#parallel.setTimeout(this.#settings.parallel.timeouts.firstStep);
  }

  /** Finds the checkpoint to resume from and restores its state. */
  async *#begin(): AsyncGenerator<TrainEvent, void, void> {
    const run = describeRun(this.#parallel, this.#planned, this.#settings);
    const warnings: string[] = [];
    const found = await findStart(this.#settings, this.#parallel, this.#checkpoints.store, (message) =>
      warnings.push(message),
    );
    if (!found) {
      yield { type: "start", globalStep: 0, run };
      return;
    }
    requireSameFingerprint({ ...found, facts: currentNames(found.facts) }, currentNames(this.#fingerprint));
    await restoreWeights(found, this.#parallel);
    this.#checkpoints.resumedFrom(found);
    // Assigned in place: sources that only later stages read may have been added since.
    const positions = this.#progress.positions.map((start, source) => found.progress.positions[source] ?? start);
    this.#progress = { ...found.progress, positions };
    const { stage, step, globalStep } = this.#progress;
    const planned = this.#planned[stage];
    // A stage that has not started creates its own optimizer, if it has one.
    if (planned && (step > 0 || planned.optimizerFrom !== stage)) {
      await restoreOptimizer(found, this.#parallel, this.#optimizerFor(planned));
    }
    yield { type: "start", globalStep, run, resumed: { ...this.#position(), checkpoint: found.path } };
    for (const message of warnings) yield this.#warning("CHECKPOINT_CORRUPT", message);
  }

  /** Exchanges notes before the first step of a stage, which may already be over. */
  async #agreeToBegin(): Promise<{ stop: boolean; clock: ClockNote }> {
    this.#parallel.setTimeout(this.#settings.parallel.timeouts.firstStep);
    const notes = await this.#parallel.exchange("a stage", this.#note(this.#progress.step));
    return { stop: notes.some(({ stop }) => stop), clock: notes[0].clock };
  }

  /** This process's note after `step` steps of the stage. */
  #note(step: number): StepNote {
    const clock = this.#clock as StageClock;
    return {
      stop: this.#settings.signal?.aborted ?? false,
      clock: {
        isOver: clock.isOver(step),
        steps: clock.stepsAfter(step),
        isDue: this.#checkpoints.isDue(this.#progress.globalStep + 1),
      },
      save: this.#checkpoints.note(),
      mask: this.#trainer?.maskFound,
    };
  }

  /** The optimizer of a stage: the current one, unless the stage has its own. */
  #optimizerFor({ stage, optimizer, optimizerFrom }: PlannedStage): Optimizer {
    if (this.#optimizer?.madeIn !== optimizerFrom) {
      this.#optimizer?.instance.dispose();
      const instance = makeOptimizer(optimizer, this.#model, stage.name);
      this.#optimizer = { instance, madeIn: optimizerFrom };
      requireElementwise(instance, this.#parallel, stage.name);
    }
    return this.#optimizer.instance;
  }

  /** One step: gradients, one exchange between all processes, update. */
  async #step(
    trainer: Trainer,
    steps: number,
    planned: PlannedStage,
  ): Promise<{ step: StepResult; notes: StepNote[] }> {
    const progress = this.#progress;
    const { stage, source, tokensPerStep } = planned;
    const place = {
      step: progress.step,
      steps,
      position: progress.positions[source],
      previousRate: progress.previousRate,
      gradNorm: progress.gradNorm,
    };
    const pending = await trainer.forwardBackward(place);
    const own: StepMessage = { report: pending.report, note: this.#note(progress.step + 1) };
    const all = await this.#parallel.exchange("a step", own);
    const result = await trainer.update(
      pending,
      all.map(({ report }) => report),
    );
    this.#parallel.setTimeout(this.#settings.parallel.timeouts.step);
    progress.step++;
    progress.globalStep++;
    progress.positions[source] += stage.globalBatchSize;
    progress.tokens += tokensPerStep;
    progress.stageTokens += tokensPerStep;
    progress.elapsed += result.seconds;
    progress.stageSeconds = this.#clock?.seconds ?? 0;
    progress.rate = result.lr;
    if (result.skipped !== "no targets") progress.gradNorm = result.gradNorm;
    progress.skipped.inARow = result.skipped === "not finite" ? progress.skipped.inARow + 1 : 0;
    if (result.skipped === "not finite") progress.skipped.total++;
    if (progress.skipped.inARow > this.#settings.maxSkipped)
      throw divergence(result, planned, this.#position(), progress.skipped.inARow);
    return { step: result, notes: all.map(({ note }) => note) };
  }

  async *#hooks({ stage }: PlannedStage, isLast: boolean): AsyncGenerator<TrainEvent, void, void> {
    const { step, globalStep } = this.#progress;
    const context = {
      device: this.#model.device,
      stage: stage.name,
      step,
      globalStep,
      signal: this.#settings.signal,
    };
    const isDue = (hook?: { every: number }) => hook !== undefined && (isLast || step % hook.every === 0);
    if (!isDue(stage.evaluate) && !isDue(stage.sample)) return;
    this.#parallel.setTimeout(this.#settings.parallel.timeouts.firstStep);
    if (stage.evaluate && isDue(stage.evaluate)) {
      const metrics = await this.#hook(stage.name, "evaluate", () => stage.evaluate?.run(this.#model, context));
      yield { type: "evaluation", ...this.#position(), metrics };
    }
    if (stage.sample && isDue(stage.sample)) {
      const samples = await this.#hook(stage.name, "sample", () => stage.sample?.run(this.#model, context));
      yield { type: "sample", ...this.#position(), samples };
    }
    this.#parallel.release();
  }

  /** Runs a hook and checks its result. */
  async #hook<T>(stage: string, kind: "evaluate" | "sample", run: () => T | PromiseLike<T> | undefined): Promise<T> {
    const where = `stage '${stage}', step ${this.#progress.step}: ${kind}`;
    try {
      const result = await settled(run(), (problem) => new TrainError("TRAIN_HOOK", `${where}: ${problem}`));
      checkHookResult(where, kind, result);
      return result as T;
    } catch (error) {
      const { signal } = this.#settings;
      if (signal?.aborted && error === signal.reason) throw error; // the hook was aborted
      throw failureOf("TRAIN_HOOK", where, error);
    }
  }

  async *#endStage({ stage }: PlannedStage): AsyncGenerator<TrainEvent, void, void> {
    const progress = this.#progress;
    const position = this.#position();
    const { stageTokens: tokens } = progress;
    const seconds = this.#clock?.seconds ?? 0;
    progress.stage++;
    progress.step = 0;
    progress.stageTokens = 0;
    progress.stageSeconds = 0;
    progress.objective = {};
    progress.previousRate = progress.rate;
    const isLast = progress.stage === this.#planned.length;
    this.#last = { position, name: stage.checkpoint ?? (isLast ? "final" : undefined) };
    yield* this.#save(position, this.#last.name);
    yield* this.#checkpoints.drain();
    yield { type: "stage-end", ...position, seconds, tokens };
  }

  /**
   * Saves the last checkpoint of a run. While it cannot be written, for example because the disk is full, the save is
   * retried and a warning explains the remedy.
   *
   * @throws TrainError TRAIN_CHECKPOINT_WRITE after `retrySaving` minutes
   */
  async *#saveForSure(): AsyncGenerator<TrainEvent, void, void> {
    const { retrySaving, signal } = this.#settings;
    const start = performance.now();
    const wasAborted = signal?.aborted ?? false;
    for (let pause = RETRY_SECONDS.first; ; pause = Math.min(2 * pause, RETRY_SECONDS.last)) {
      yield* this.#checkpoints.drain();
      if (await this.#checkpoints.isComplete(this.#progress)) return;
      const isOver = performance.now() - start >= 60_000 * retrySaving || (!wasAborted && signal?.aborted === true);
      if ((await this.#parallel.exchange("retrying a save", isOver)).some(Boolean)) break;
      const message = `the run is finished, but its last checkpoint could not be written: ${this.#checkpoints.wayOut}`;
      yield this.#warning("CHECKPOINT_WRITE", `${message}. Retrying in ${pause} s`);
      await sleep(1000 * pause);
      yield* this.#save(this.#last?.position, this.#last?.name);
    }
    this.#checkpoints.requireSaved(this.#progress);
  }

  /** Called after the run's folder was recreated, without its earlier checkpoints. */
  saveSoon(): void {
    this.#checkpoints.saveSoon();
  }

  /** Called when another run uses the folder now. */
  abandonFolder(): void {
    this.#checkpoints.abandon();
  }

  async *#abort(): AsyncGenerator<TrainEvent, void, void> {
    this.#last = undefined;
    if (this.#checkpoints.isUnsaved(this.#progress)) yield* this.#save();
    yield* this.#saveForSure();
    const { path } = this.#checkpoints;
    this.#ended = true;
    yield { type: "aborted", ...this.#position(), ...(path !== undefined && { checkpoint: path }) };
  }

  async *#save(position = this.#position(), name?: string): AsyncGenerator<CheckpointEvent | WarningEvent, void, void> {
    const { stage, step, objective } = this.#progress;
    checkState(`stage '${this.#planned[stage]?.stage.name}', step ${step}`, objective);
    if (this.#clock && this.#progress.step > 0) this.#progress.stageSeconds = this.#clock.seconds;
    const state = { optimizer: this.#optimizer?.instance, progress: this.#progress, facts: this.#fingerprint };
    yield* this.#checkpoints.save(state, position, name);
  }

  #stepEvent(step: StepResult, meter: Meter, steps: number): StepEvent {
    const { tokens, elapsed } = this.#progress;
    const position = this.#position();
    const metrics = meter.measure(step);
    const event = {
      type: "step" as const,
      ...position,
      steps,
      tokens,
      elapsed,
      metrics,
      ...(step.perRank.length > 1 && { perRank: step.perRank }),
    };
    return step.skipped ? { ...event, skipped: step.skipped } : event;
  }

  #warning(code: WarningEvent["code"], message: string): WarningEvent {
    return { type: "warning", globalStep: this.#progress.globalStep, code, message };
  }

  #position(): Position {
    const { stage, step, globalStep } = this.#progress;
    return { stage, name: this.#planned[stage]?.stage.name ?? "", step, globalStep };
  }
}
