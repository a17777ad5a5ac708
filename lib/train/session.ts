import { performance } from "node:perf_hooks";
import { type Decoder, StableDiffCoder } from "../model/index.js";
import type { Optimizer } from "../nn/index.js";
import * as torch from "../torch/index.js";
import {
  CheckpointStore,
  checkFacts,
  newProgress,
  type Progress,
  type ResumeFacts,
  restoreOptimizer,
  restoreWeights,
} from "./checkpoint.js";
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

/** One run of a curriculum, from its start or a checkpoint to its end. */
export class Session {
  readonly #planned: readonly PlannedStage[];
  readonly #settings: RunSettings;
  readonly #model: Decoder;
  readonly #store: CheckpointStore | undefined;
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
  /** The last checkpoint could not be written, and the consumer was told. */
  #lost = false;

  constructor(planned: readonly PlannedStage[], settings: RunSettings) {
    const { model, device, out, keepLast, seed } = settings;
    if (device !== undefined && !sameDevice(device, model.device)) model.to({ device });
    this.#planned = planned;
    this.#settings = settings;
    this.#model = model instanceof StableDiffCoder ? model.model : model;
    this.#store = out === undefined ? undefined : new CheckpointStore(out, keepLast);
    this.#progress = newProgress(new Set(planned.map(({ source }) => source)).size);
    this.#facts = identify(this.#model, planned, seed);
  }

  /** Trains, and tells what happens. The whole run is this function. */
  async *events(): AsyncGenerator<TrainEvent, void, void> {
    yield* this.#begin();
    const progress = this.#progress;
    for (; progress.stage < this.#planned.length; ) {
      const planned = this.#planned[progress.stage];
      const trainer = new Trainer(planned, this.#model, this.#optimizerFor(planned), progress.objective);
      this.#trainer = trainer;
      const meter = new Meter(planned, this.#model, this.#settings.peakFlops);
      const clock = new StageClock(planned.stage.end, planned.steps, progress.step, progress.stageSeconds);
      this.#clock = clock;
      yield { type: "stage-start", ...this.#position(), facts: planned.facts };
      while (!clock.isOver(progress.step)) {
        if (this.#settings.signal?.aborted) return yield* this.#abort();
        const step = await this.#step(trainer, clock, planned);
        yield this.#stepEvent(step, meter, clock);
        if (step.skipped === "not finite") {
          yield this.#warning("STEP_SKIPPED", skippedMessage(step, progress.skipped.total));
        }
        const isLast = clock.isOver(progress.step);
        yield* this.#hooks(planned, isLast);
        if (!isLast && this.#isCheckpointDue()) yield* this.#checkpoint();
      }
      yield* this.#endStage(planned);
    }
    this.#requireSaved();
    yield { type: "done", globalStep: progress.globalStep, tokens: progress.tokens, elapsed: progress.elapsed };
  }

  /** Saves what is not saved yet, when the consumer stops early or an error ends the run; frees the optimiser. */
  async close(): Promise<(CheckpointEvent | WarningEvent)[]> {
    const events: (CheckpointEvent | WarningEvent)[] = [];
    try {
      // Weights that an error left half changed are not worth saving; a failed save was just tried.
      if (this.#hasUnsaved && !this.#trainer?.updating && !this.#lost) {
        for await (const event of this.#checkpoint()) events.push(event);
      }
    } finally {
      this.#model.zeroGrad();
      this.#optimizer?.instance.dispose();
      this.#optimizer = undefined;
    }
    return events;
  }

  get globalStep(): number {
    return this.#progress.globalStep;
  }

  /** Looks for a checkpoint to go on from, and puts everything back as it was. */
  async *#begin(): AsyncGenerator<TrainEvent, void, void> {
    const { resume, overwrite, out } = this.#settings;
    const run = describeRun(this.#model, this.#planned, this.#settings);
    if (this.#store && !resume && !this.#store.isEmpty) {
      if (!overwrite) {
        const hint = "resume: true goes on with it, overwrite: true begins anew, or choose another folder";
        throw new TrainError("TRAIN_RUN_EXISTS", `${out} holds a run already: ${hint}`);
      }
      this.#store.clear();
    }
    const warnings: string[] = [];
    const found = resume ? await this.#store?.newest((message) => warnings.push(message)) : undefined;
    if (!found) {
      yield { type: "start", globalStep: 0, run };
      return;
    }
    checkFacts(found, this.#facts);
    await restoreWeights(found, this.#model);
    // In place: sources that only later stages read may have been added since.
    const positions = this.#progress.positions.map((start, source) => found.progress.positions[source] ?? start);
    this.#progress = { ...found.progress, positions };
    const { stage, step, globalStep } = this.#progress;
    this.#saved = { globalStep, stage, at: performance.now(), path: found.path };
    const planned = this.#planned[stage];
    // A stage that was not begun makes its own optimiser, if it wants one.
    if (planned && (step > 0 || planned.optimizerFrom !== stage)) {
      restoreOptimizer(found, this.#optimizerFor(planned));
    }
    yield { type: "start", globalStep, run, resumed: { ...this.#position(), checkpoint: found.path } };
    for (const message of warnings) yield this.#warning("CHECKPOINT_CORRUPT", message);
  }

  /** The optimiser of a stage: the one at hand, unless the stage brings its own. */
  #optimizerFor({ optimizer, optimizerFrom }: PlannedStage): Optimizer {
    if (this.#optimizer?.madeIn !== optimizerFrom) {
      this.#optimizer?.instance.dispose();
      this.#optimizer = { instance: makeOptimizer(optimizer, this.#model), madeIn: optimizerFrom };
    }
    return this.#optimizer.instance;
  }

  async #step(trainer: Trainer, clock: StageClock, planned: PlannedStage): Promise<StepResult> {
    const progress = this.#progress;
    const { stage, source, tokensPerStep } = planned;
    const result = await trainer.step({
      step: progress.step,
      steps: clock.stepsAfter(progress.step),
      position: progress.positions[source],
      previousRate: progress.previousRate,
      gradNorm: progress.gradNorm,
    });
    progress.step++;
    progress.globalStep++;
    progress.positions[source] += stage.batchSize;
    progress.tokens += tokensPerStep;
    progress.stageTokens += tokensPerStep;
    progress.elapsed += result.seconds;
    progress.stageSeconds = clock.seconds;
    progress.rate = result.lr;
    if (result.skipped !== "no targets") progress.gradNorm = result.gradNorm;
    progress.skipped.inARow = result.skipped === "not finite" ? progress.skipped.inARow + 1 : 0;
    if (result.skipped === "not finite") progress.skipped.total++;
    if (progress.skipped.inARow > this.#settings.maxSkipped)
      throw divergence(result, this.#position(), progress.skipped.inARow);
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
    const isDue = (every: number) => isLast || step % every === 0;
    if (stage.evaluate && isDue(stage.evaluate.every)) {
      const metrics = await stage.evaluate.run(this.#model, context);
      yield { type: "evaluation", ...this.#position(), metrics };
    }
    if (stage.sample && isDue(stage.sample.every)) {
      const samples = await stage.sample.run(this.#model, context);
      yield { type: "sample", ...this.#position(), samples };
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
    yield* this.#checkpoint(stage.checkpoint ?? (isLast ? "final" : undefined), position);
    yield { type: "stage-end", ...position, seconds, tokens };
  }

  async *#abort(): AsyncGenerator<TrainEvent, void, void> {
    if (this.#hasUnsaved) yield* this.#checkpoint();
    this.#requireSaved();
    const { path } = this.#saved;
    yield { type: "aborted", ...this.#position(), ...(path !== undefined && { checkpoint: path }) };
  }

  /** Saves. A failure is a warning, or with `strict` the end. */
  async *#checkpoint(
    name = CheckpointStore.nameOf(this.#progress.globalStep),
    position = this.#position(),
  ): AsyncGenerator<CheckpointEvent | WarningEvent, void, void> {
    if (!this.#store) return;
    const { model, strict } = this.#settings;
    const tokenizer = model instanceof StableDiffCoder && model.hasTokenizer ? model.tokenizer.dir : undefined;
    const start = performance.now();
    if (this.#clock && this.#progress.step > 0) this.#progress.stageSeconds = this.#clock.seconds;
    let path: string;
    try {
      path = await this.#store.save(name, {
        model: this.#model,
        filesFrom: tokenizer ?? (model instanceof StableDiffCoder ? model.path : undefined),
        optimizer: this.#optimizer?.instance ?? null,
        progress: this.#progress,
        facts: this.#facts,
        versions: versions(),
      });
    } catch (error) {
      const message = (error as Error).message;
      if (strict) throw new TrainError("TRAIN_CHECKPOINT_WRITE", message, { cause: error });
      this.#saved.at = performance.now(); // not again with every step
      yield this.#warning("CHECKPOINT_WRITE", `${message}. Training goes on; earlier checkpoints are as they were`);
      return;
    }
    const { globalStep, stage } = this.#progress;
    this.#saved = { globalStep, stage, at: performance.now(), path };
    yield { type: "checkpoint", ...position, checkpoint: name, path, seconds: (performance.now() - start) / 1000 };
  }

  get #hasUnsaved(): boolean {
    const { globalStep, stage } = this.#progress;
    return globalStep > 0 && (this.#saved.globalStep !== globalStep || this.#saved.stage !== stage);
  }

  #isCheckpointDue(): boolean {
    const { steps, minutes } = this.#settings.checkpointEvery;
    if (steps !== undefined && this.#progress.globalStep % steps === 0) return true;
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

  #stepEvent(step: StepResult, meter: Meter, clock: StageClock): StepEvent {
    const { tokens, elapsed } = this.#progress;
    const position = this.#position();
    const metrics = meter.measure(step);
    const event = {
      type: "step" as const,
      ...position,
      steps: clock.stepsAfter(position.step),
      tokens,
      elapsed,
      metrics,
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

function sameDevice(a: string, b: string): boolean {
  const full = (device: string) => (device === "cuda" ? `cuda:${torch.cuda.currentDevice()}` : device);
  return full(a) === full(b);
}
