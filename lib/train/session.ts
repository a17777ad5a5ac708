import { performance } from "node:perf_hooks";
import { DistributedError, type LocalTensor, wholeTensor } from "../distributed/index.js";
import { type Decoder, StableDiffCoder } from "../model/index.js";
import type { Optimizer } from "../nn/index.js";
import type { ParallelModel } from "../parallel/index.js";
import type * as torch from "../torch/index.js";
import {
  CheckpointStore,
  checkFacts,
  type FoundCheckpoint,
  newProgress,
  noneIsWhole,
  type Progress,
  type ResumeFacts,
  restoreOptimizer,
  restoreWeights,
  shareOfFiles,
} from "./checkpoint.js";
import { CheckpointSaver, type SaveNote, type SaveOutcome } from "./checkpoint-saver.js";
import { StageClock } from "./clock.js";
import { TrainError } from "./errors.js";
import type { CheckpointEvent, Position, StepEvent, TrainEvent, WarningEvent } from "./events.js";
import { Meter } from "./meter.js";
import { divergence, skippedMessage } from "./not-finite.js";
import { makeOptimizer } from "./optimizer.js";
import type { PlannedStage } from "./plan.js";
import { describeRun, identify } from "./run-facts.js";
import type { RunSettings } from "./run-options.js";
import { type StepResult, Trainer } from "./trainer.js";
import { versions } from "./versions.js";

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
  readonly #store: CheckpointStore | undefined;
  readonly #saver: CheckpointSaver | undefined;
  readonly #facts: ResumeFacts;
  #progress: Progress;
  #optimizer: { instance: Optimizer; madeIn: number } | undefined;
  #clock: StageClock | undefined;
  /** The step that was saved last, and when: what need not be saved again. */
  #saved: { globalStep: number; stage: number; at: number; path?: string } = {
    globalStep: 0,
    stage: 0,
    at: performance.now(),
  };
  #trainer: Trainer | undefined;
  /** All that was to be done is done, or was stopped in order. */
  #ended = false;
  /** The last checkpoint could not be written, and the consumer was told. */
  #lost = false;

  constructor(planned: readonly PlannedStage[], settings: RunSettings, parallel: ParallelModel) {
    const { out, keepLast, seed } = settings;
    this.#planned = planned;
    this.#settings = settings;
    this.#parallel = parallel;
    this.#model = parallel.model;
    this.#store = out === undefined ? undefined : new CheckpointStore(out, keepLast, parallel.world);
    this.#saver = this.#store && new CheckpointSaver(this.#store, parallel);
    this.#progress = newProgress(new Set(planned.map(({ source }) => source)).size);
    this.#facts = identify(this.#model, planned, seed);
  }

  /** Trains, and tells what happens. The whole run is this function. */
  async *events(): AsyncGenerator<TrainEvent, void, void> {
    yield* this.#begin();
    const progress = this.#progress;
    for (; progress.stage < this.#planned.length; ) {
      const planned = this.#planned[progress.stage];
      const trainer = new Trainer(planned, this.#parallel, this.#optimizerFor(planned), progress.objective);
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
        yield* this.#tell(await this.#saver?.observe(step.notes.map(({ save }) => save)));
        yield* this.#hooks(planned, clock.isOver);
        if (!clock.isOver && clock.isDue) yield* this.#checkpoint();
      }
      yield* this.#endStage(planned);
    }
    yield* this.#drain();
    this.#requireSaved();
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
    try {
      if (!alone && !failed && !this.#ended) await this.#leaveTogether();
      if (alone || !failed) {
        for await (const event of this.#drain()) events.push(event);
        // Weights that an error left half changed are not worth saving; a failed save was just tried.
        if (this.#hasUnsaved && !this.#trainer?.updating && !this.#lost) {
          for await (const event of this.#checkpoint()) events.push(event);
          for await (const event of this.#drain()) events.push(event);
        }
      }
    } finally {
      await this.#saver?.close();
      this.#model.zeroGrad();
      this.#optimizer?.instance.dispose();
      this.#optimizer = undefined;
    }
    return events;
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
    const { resume, overwrite, out } = this.#settings;
    const run = describeRun(this.#parallel, this.#planned, this.#settings);
    const isEmpty =
      this.#store === undefined ||
      (await this.#parallel.exchange("looking for a run", this.#store.isEmpty)).every(Boolean);
    if (!resume && !isEmpty) {
      if (!overwrite) {
        const hint = "resume: true goes on with it, overwrite: true begins anew, or choose another folder";
        throw new TrainError("TRAIN_RUN_EXISTS", `${out} holds a run already: ${hint}`);
      }
      if (this.#parallel.isMain) this.#store?.clear();
      await this.#parallel.exchange("removing a run", null);
    }
    const warnings: string[] = [];
    const found = resume ? await this.#newest((message) => warnings.push(message)) : undefined;
    if (!found) {
      yield { type: "start", globalStep: 0, run };
      return;
    }
    checkFacts(found, this.#facts);
    await restoreWeights(found, this.#parallel.local());
    // In place: sources that only later stages read may have been added since.
    const positions = this.#progress.positions.map((start, source) => found.progress.positions[source] ?? start);
    this.#progress = { ...found.progress, positions };
    const { stage, step, globalStep } = this.#progress;
    this.#saved = { globalStep, stage, at: performance.now(), path: found.path };
    const planned = this.#planned[stage];
    // A stage that was not begun makes its own optimiser, if it wants one.
    if (planned && (step > 0 || planned.optimizerFrom !== stage)) {
      await this.#restoreOptimizer(found, this.#optimizerFor(planned));
    }
    yield { type: "start", globalStep, run, resumed: { ...this.#position(), checkpoint: found.path } };
    for (const message of warnings) yield this.#warning("CHECKPOINT_CORRUPT", message);
  }

  /** The newest whole checkpoint. Each process looks through its share of the files, and all take the same. */
  async #newest(warn: (message: string) => void): Promise<FoundCheckpoint | undefined> {
    const { world } = this.#parallel;
    if (!this.#store) return undefined;
    if (!world) return await this.#store.newest(warn);
    const { readable, unreadable } = this.#store.candidates();
    const damaged = unreadable.map(({ name, problem }) => `${name}: ${problem}`);
    const [names] = await this.#parallel.exchange(
      "listing checkpoints",
      readable.map(({ name }) => name),
    );
    for (const name of names) {
      const found = readable.find((each) => each.name === name);
      const problem = found
        ? await this.#store.verify(found, { files: shareOfFiles(found, world) })
        : `rank ${world.rank} does not see it: is the folder on a disk that all processes share?`;
      const damage = (await this.#parallel.exchange("verifying a checkpoint", problem ?? null)).find(
        (each) => each !== null,
      );
      if (found && !damage) {
        for (const problem of damaged) warn(`checkpoint ${problem}: going on from ${name}`);
        return found;
      }
      damaged.push(`${name}: ${damage}`);
    }
    if (damaged.length === 0) return undefined;
    throw noneIsWhole(this.#store.folder, damaged);
  }

  async #restoreOptimizer(found: FoundCheckpoint, optimizer: Optimizer): Promise<void> {
    const { tensors } = optimizer.stateDict();
    const restored = await restoreOptimizer(found, this.#localState(tensors));
    if (restored) optimizer.loadStateDict({ step: restored.step, tensors });
  }

  /** An optimiser's tensors, `<parameter>.<slot>`, are cut as their parameters are. */
  #localState(tensors: Record<string, torch.Tensor>): LocalTensor[] {
    const parameters = new Map(this.#parallel.local().map((local) => [local.name, local]));
    return Object.entries(tensors).map(([name, tensor]) => {
      const parameter = parameters.get(name.slice(0, name.lastIndexOf(".")));
      if (parameter && parameter.slice.size.join() === tensor.shape.join()) return { ...parameter, name, tensor };
      return { ...wholeTensor(name, tensor), owned: this.#parallel.isMain };
    });
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
        isDue: this.#isCheckpointDue(this.#progress.globalStep + 1),
      },
      save: this.#saver?.note(),
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
    yield* this.#checkpoint(stage.checkpoint ?? (isLast ? "final" : undefined), position);
    yield* this.#drain();
    yield { type: "stage-end", ...position, seconds, tokens };
  }

  async *#abort(): AsyncGenerator<TrainEvent, void, void> {
    if (this.#hasUnsaved) yield* this.#checkpoint();
    yield* this.#drain();
    this.#requireSaved();
    const { path } = this.#saved;
    this.#ended = true;
    yield { type: "aborted", ...this.#position(), ...(path !== undefined && { checkpoint: path }) };
  }

  /** Begins to save; with `sync` waits until it is done. One that is under way still is waited for first. */
  async *#checkpoint(
    name = CheckpointStore.nameOf(this.#progress.globalStep),
    position = this.#position(),
  ): AsyncGenerator<CheckpointEvent | WarningEvent, void, void> {
    if (!this.#saver) return;
    yield* this.#drain();
    const { model, saving } = this.#settings;
    const tokenizer = model instanceof StableDiffCoder && model.hasTokenizer ? model.tokenizer.dir : undefined;
    if (this.#clock && this.#progress.step > 0) this.#progress.stageSeconds = this.#clock.seconds;
    const state = this.#optimizer?.instance.stateDict();
    const outcome = await this.#saver.begin(
      name,
      {
        model: this.#model,
        weights: this.#parallel.local(),
        filesFrom: tokenizer ?? (model instanceof StableDiffCoder ? model.path : undefined),
        optimizer: state ? { step: state.step, tensors: this.#localState(state.tensors) } : null,
        progress: this.#progress,
        facts: this.#facts,
        versions: versions(),
      },
      position,
    );
    const { globalStep, stage } = this.#progress;
    this.#saved = { ...this.#saved, globalStep, stage, at: performance.now() };
    yield* this.#tell(outcome);
    if (saving === "sync") yield* this.#drain();
  }

  /** Waits for the checkpoint under way. */
  async *#drain(): AsyncGenerator<CheckpointEvent | WarningEvent, void, void> {
    if (!this.#saver?.isBusy) return;
    this.#parallel.setTimeout(this.#settings.parallel.timeouts.firstStep);
    yield* this.#tell(await this.#saver.drain());
  }

  /** How a checkpoint ended, as an event. A failure is a warning, or with `strict` the end. */
  *#tell(outcome: SaveOutcome | undefined): Generator<CheckpointEvent | WarningEvent, void, void> {
    if (!outcome) return;
    const { name, position, seconds, path, problem } = outcome;
    if (path !== undefined) {
      this.#saved.path = path;
      this.#lost = false;
      yield { type: "checkpoint", ...position, checkpoint: name, path, seconds };
      return;
    }
    this.#lost = true;
    this.#saved.globalStep = -1; // what was under way is as good as never begun
    if (this.#settings.strict) throw new TrainError("TRAIN_CHECKPOINT_WRITE", problem ?? "");
    yield this.#warning("CHECKPOINT_WRITE", `${problem}. Training goes on; earlier checkpoints are as they were`);
  }

  get #hasUnsaved(): boolean {
    const { globalStep, stage } = this.#progress;
    return globalStep > 0 && (this.#saved.globalStep !== globalStep || this.#saved.stage !== stage);
  }

  #isCheckpointDue(globalStep: number): boolean {
    const { steps, minutes } = this.#settings.checkpointEvery;
    if (steps !== undefined && globalStep % steps === 0) return true;
    return minutes !== undefined && performance.now() - this.#saved.at >= minutes * 60_000;
  }

  /** The end of a run is the one moment when an unwritten checkpoint is lost work. */
  #requireSaved(): void {
    if (!this.#store || !this.#hasUnsaved) return;
    this.#lost = true;
    throw new TrainError(
      "TRAIN_CHECKPOINT_WRITE",
      `the last checkpoint could not be written to ${this.#store.folder}. The model is still in memory, as trained`,
    );
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
