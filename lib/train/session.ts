import { DistributedError } from "../distributed/index.js";
import type { Decoder } from "../model/index.js";
import type { Optimizer } from "../nn/index.js";
import type { ParallelModel } from "../parallel/index.js";
import { checkFacts, newProgress, type Progress, type ResumeFacts } from "./checkpoint.js";
import type { SaveNote } from "./checkpoint-saver.js";
import { StageClock } from "./clock.js";
import type { CheckpointEvent, Position, StepEvent, TrainEvent, WarningEvent } from "./events.js";
import { Meter } from "./meter.js";
import { divergence, skippedMessage } from "./not-finite.js";
import { makeOptimizer } from "./optimizer.js";
import type { PlannedStage } from "./plan.js";
import { RunCheckpoints } from "./run-checkpoints.js";
import { describeRun, identify } from "./run-facts.js";
import type { RunSettings } from "./run-options.js";
import { type StepResult, Trainer } from "./trainer.js";

/** What each process tells the others with every step. JSON. */
interface StepNote {
  /** It was asked to stop. */
  stop: boolean;
  /** Of rank 0, whose clock counts. */
  clock: ClockNote;
  save?: SaveNote;
}

interface ClockNote {
  /** The stage is over after this step, and so many steps it has. */
  isOver: boolean;
  steps: number;
  /** It is time for a checkpoint. */
  isDue: boolean;
}

/** One run of a curriculum, from its start or a checkpoint to its end, as one of its processes sees it. */
export class Session {
  readonly #planned: readonly PlannedStage[];
  readonly #settings: RunSettings;
  readonly #model: Decoder;
  readonly #parallel: ParallelModel;
  readonly #checkpoints: RunCheckpoints;
  readonly #facts: ResumeFacts;
  #progress: Progress;
  #optimizer: { instance: Optimizer; madeIn: number } | undefined;
  #clock: StageClock | undefined;
  #trainer: Trainer | undefined;
  /** All that was to be done is done, or was stopped in order. */
  #ended = false;

  constructor(planned: readonly PlannedStage[], settings: RunSettings, parallel: ParallelModel) {
    this.#planned = planned;
    this.#settings = settings;
    this.#parallel = parallel;
    this.#model = parallel.model;
    this.#checkpoints = new RunCheckpoints(settings, parallel);
    this.#progress = newProgress(new Set(planned.map(({ source }) => source)).size);
    this.#facts = identify(this.#model, planned, settings.seed);
  }

  /** Trains, and tells what happens. The whole run is this function. */
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
      yield { type: "stage-start", ...this.#position(), facts: planned.facts };
      let { stop, clock } = await this.#agreeToBegin();
      while (!clock.isOver) {
        // One process alone need not ask the others: it stops before the next step.
        if (stop || (!this.#parallel.world && this.#settings.signal?.aborted)) return yield* this.#abort();
        const step = await this.#step(trainer, clock.steps, planned);
        stop = step.notes.some((note) => note.stop);
        ({ clock } = step.notes[0]);
        yield this.#stepEvent(step, meter, clock.steps);
        if (step.skipped === "not finite") {
          yield this.#warning("STEP_SKIPPED", skippedMessage(step, planned, progress.skipped.total));
        }
        yield* this.#checkpoints.observe(step.notes.map(({ save }) => save));
        yield* this.#hooks(planned, clock.isOver);
        if (!clock.isOver && clock.isDue) yield* this.#save();
      }
      trainer.close();
      yield* this.#endStage(planned);
    }
    yield* this.#checkpoints.drain();
    this.#checkpoints.requireSaved(progress);
    this.#ended = true;
    yield { type: "done", globalStep: progress.globalStep, tokens: progress.tokens, elapsed: progress.elapsed };
  }

  /**
   * Saves what is not saved yet, when the consumer stops early or an error ends the run; frees the optimiser.
   *
   * @param failed by an error. With several processes nothing can be saved then: the others are not there
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
    // Weights that an error left half changed are not worth saving; a failed save was just tried.
    if (!this.#checkpoints.isUnsaved(this.#progress) || this.#trainer?.updating || this.#checkpoints.isLost) return;
    yield* this.#save();
    yield* this.#checkpoints.drain();
  }

  get globalStep(): number {
    return this.#progress.globalStep;
  }

  /**
   * The consumer stopped reading before the run's end. In a run of several processes that is fine if all did.
   *
   * @throws DistributedError DISTRIBUTED_STATE if the others go on
   */
  async #leaveTogether(): Promise<void> {
    this.#parallel.setTimeout(Math.min(10, this.#settings.parallel.timeouts.step));
    try {
      await this.#parallel.exchange("leaving the run", null);
    } catch (error) {
      const message = "stopped reading the run's events, and the others did not";
      const remedy = "all processes must read them alike, to their end or up to the same one";
      throw new DistributedError("DISTRIBUTED_STATE", `${message}: ${remedy}`, { cause: error });
    }
    this.#parallel.setTimeout(this.#settings.parallel.timeouts.firstStep);
  }

  /** Looks for a checkpoint to go on from, and puts everything back as it was. */
  async *#begin(): AsyncGenerator<TrainEvent, void, void> {
    const run = describeRun(this.#parallel, this.#planned, this.#settings);
    const warnings: string[] = [];
    const found = await this.#checkpoints.findStart((message) => warnings.push(message));
    if (!found) {
      yield { type: "start", globalStep: 0, run };
      return;
    }
    checkFacts(found, this.#facts);
    await this.#checkpoints.restoreWeights(found);
    // In place: sources that only later stages read may have been added since.
    const positions = this.#progress.positions.map((start, source) => found.progress.positions[source] ?? start);
    this.#progress = { ...found.progress, positions };
    const { stage, step, globalStep } = this.#progress;
    const planned = this.#planned[stage];
    // A stage that was not begun makes its own optimiser, if it wants one.
    if (planned && (step > 0 || planned.optimizerFrom !== stage)) {
      await this.#checkpoints.restoreOptimizer(found, this.#optimizerFor(planned));
    }
    yield { type: "start", globalStep, run, resumed: { ...this.#position(), checkpoint: found.path } };
    for (const message of warnings) yield this.#warning("CHECKPOINT_CORRUPT", message);
  }

  /** Before a stage's first step: whether there is one at all. */
  async #agreeToBegin(): Promise<{ stop: boolean; clock: ClockNote }> {
    this.#parallel.setTimeout(this.#settings.parallel.timeouts.firstStep);
    const notes = await this.#parallel.exchange("a stage", this.#note(this.#progress.step));
    return { stop: notes.some(({ stop }) => stop), clock: notes[0].clock };
  }

  /** What this process has to tell when `step` steps of the stage are done. */
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
    };
  }

  /** The optimiser of a stage: the one at hand, unless the stage brings its own. */
  #optimizerFor({ optimizer, optimizerFrom }: PlannedStage): Optimizer {
    if (this.#optimizer?.madeIn !== optimizerFrom) {
      this.#optimizer?.instance.dispose();
      this.#optimizer = { instance: makeOptimizer(optimizer, this.#model), madeIn: optimizerFrom };
    }
    return this.#optimizer.instance;
  }

  async #step(trainer: Trainer, steps: number, planned: PlannedStage): Promise<StepResult<StepNote>> {
    const progress = this.#progress;
    const { stage, source, tokensPerStep } = planned;
    const place = {
      step: progress.step,
      steps,
      position: progress.positions[source],
      previousRate: progress.previousRate,
      gradNorm: progress.gradNorm,
    };
    const result = await trainer.step(place, () => this.#note(progress.step + 1));
    this.#parallel.setTimeout(this.#settings.parallel.timeouts.step);
    progress.step++;
    progress.globalStep++;
    progress.positions[source] += stage.batchSize;
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
    return result;
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
      const metrics = await stage.evaluate.run(this.#model, context);
      yield { type: "evaluation", ...this.#position(), metrics };
    }
    if (stage.sample && isDue(stage.sample)) {
      const samples = await stage.sample.run(this.#model, context);
      yield { type: "sample", ...this.#position(), samples };
    }
    this.#parallel.release();
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
    yield* this.#save(position, stage.checkpoint ?? (isLast ? "final" : undefined));
    yield* this.#checkpoints.drain();
    yield { type: "stage-end", ...position, seconds, tokens };
  }

  async *#abort(): AsyncGenerator<TrainEvent, void, void> {
    if (this.#checkpoints.isUnsaved(this.#progress)) yield* this.#save();
    yield* this.#checkpoints.drain();
    this.#checkpoints.requireSaved(this.#progress);
    const { path } = this.#checkpoints;
    this.#ended = true;
    yield { type: "aborted", ...this.#position(), ...(path !== undefined && { checkpoint: path }) };
  }

  async *#save(position = this.#position(), name?: string): AsyncGenerator<CheckpointEvent | WarningEvent, void, void> {
    if (this.#clock && this.#progress.step > 0) this.#progress.stageSeconds = this.#clock.seconds;
    const state = { optimizer: this.#optimizer?.instance, progress: this.#progress, facts: this.#facts };
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
