import { existsSync } from "node:fs";
import { performance } from "node:perf_hooks";
import { type LocalTensor, wholeTensor } from "../distributed/index.js";
import { stepCheckpoint } from "../model/checkpoint-layout.js";
import { StableDiffCoder } from "../model/index.js";
import type { Optimizer } from "../nn/index.js";
import type { ParallelModel } from "../parallel/index.js";
import type * as torch from "../torch/index.js";
import {
  CheckpointStore,
  type FoundCheckpoint,
  type Progress,
  type ResumeFacts,
  restoreOptimizer,
  restoreWeights,
} from "./checkpoint.js";
import { CheckpointSaver, type SaveNote, type SaveOutcome } from "./checkpoint-saver.js";
import { TrainError } from "./errors.js";
import type { CheckpointEvent, Position, WarningEvent } from "./events.js";
import type { RunSettings } from "./run-options.js";
import { versions } from "./versions.js";

/** What happens to checkpoints, as events. */
type CheckpointEvents = AsyncGenerator<CheckpointEvent | WarningEvent, void, void>;

/**
 * The checkpoints of one run: when they are due, saving them while training goes on, what to do when one cannot be written,
 * and finding the one to go on from. All processes of the run call every method alike. A run without a folder has none.
 */
export class RunCheckpoints {
  readonly #settings: RunSettings;
  readonly #parallel: ParallelModel;
  readonly #store: CheckpointStore | undefined;
  readonly #saver: CheckpointSaver | undefined;
  /** The step that was saved last, or is being saved, and when. */
  #saved: { globalStep: number; stage: number; at: number } = { globalStep: 0, stage: 0, at: performance.now() };
  #path: string | undefined;
  /** The last one could not be written, and the consumer was told. */
  #lost = false;
  /** One is wanted as soon as can be. */
  #wanted = false;

  constructor(settings: RunSettings, parallel: ParallelModel) {
    const { outputDir, keepLatest } = settings;
    this.#settings = settings;
    this.#parallel = parallel;
    this.#store = outputDir === undefined ? undefined : new CheckpointStore(outputDir, keepLatest, parallel.world);
    this.#saver = this.#store && new CheckpointSaver(this.#store, parallel);
  }

  /** Folder of the newest one. */
  get path(): string | undefined {
    return this.#path;
  }

  /**
   * Looks whether the folder is free for this run, or has something to go on from.
   *
   * @param warn is told of damaged checkpoints that were passed over
   * @throws TrainError TRAIN_RUN_EXISTS, TRAIN_CHECKPOINT_CORRUPT
   */
  async findStart(warn: (message: string) => void): Promise<FoundCheckpoint | undefined> {
    const { resume, overwrite, outputDir } = this.#settings;
    if (!this.#store) return undefined;
    const { world } = this.#parallel;
    const exchange = <T>(topic: string, value: T) => this.#parallel.exchange(topic, value);
    const found = resume ? await this.#store.newest(warn, world && exchange) : undefined;
    if (found || resume) return found;
    const isEmpty = (await this.#parallel.exchange("looking for a run", this.#store.isEmpty)).every(Boolean);
    if (isEmpty) return undefined;
    if (!overwrite) {
      const hint = "resume: true goes on with it, overwrite: true begins anew, or choose another folder";
      throw new TrainError("TRAIN_RUN_EXISTS", `${outputDir} holds a run already: ${hint}`);
    }
    if (this.#parallel.isMain) this.#store.clear();
    await this.#parallel.exchange("removing a run", null);
    return undefined;
  }

  /** Copies a checkpoint's weights into this process's part of the model. */
  async restoreWeights(found: FoundCheckpoint): Promise<void> {
    await restoreWeights(found, this.#parallel.local());
    const { globalStep, stage } = found.progress;
    this.#saved = { globalStep, stage, at: performance.now() };
    this.#path = found.path;
  }

  /** Copies a checkpoint's optimiser state into this process's part of it. */
  async restoreOptimizer(found: FoundCheckpoint, optimizer: Optimizer): Promise<void> {
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

  /** Whether one is due when so many steps are done. */
  isDue(globalStep: number): boolean {
    if (this.#wanted) return true;
    const { steps, minutes } = this.#settings.checkpointEvery;
    if (steps !== undefined && globalStep % steps === 0) return true;
    return minutes !== undefined && performance.now() - this.#saved.at >= minutes * 60_000;
  }

  /** Has one saved with the next step: those of before are gone. On rank 0, whose word counts. */
  want(): void {
    this.#wanted = true;
  }

  /** The folder is another run's now: nothing more is written there. */
  abandon(): void {
    this.#lost = true;
  }

  /** Begins to save; with `asyncCheckpoint: false` waits until it is done. One that is under way still is waited for first. */
  async *save(
    state: { optimizer: Optimizer | undefined; progress: Progress; facts: ResumeFacts },
    position: Position,
    name = stepCheckpoint(state.progress.globalStep),
  ): CheckpointEvents {
    if (!this.#saver) return;
    this.#wanted = false;
    yield* this.drain();
    const { model, asyncCheckpoint } = this.#settings;
    const tokenizer = model instanceof StableDiffCoder && model.hasTokenizer ? model.tokenizer.dir : undefined;
    const optimizer = state.optimizer?.stateDict();
    const outcome = await this.#saver.begin(
      name,
      {
        model: this.#parallel.model,
        weights: this.#parallel.local(),
        replicated: this.#parallel.isWhole,
        filesFrom: tokenizer ?? (model instanceof StableDiffCoder ? model.path : undefined),
        optimizer: optimizer ? { step: optimizer.step, tensors: this.#localState(optimizer.tensors) } : null,
        progress: state.progress,
        facts: state.facts,
        versions: versions(),
      },
      position,
    );
    const { globalStep, stage } = state.progress;
    this.#saved = { globalStep, stage, at: performance.now() };
    yield* this.#tell(outcome);
    if (!asyncCheckpoint) yield* this.drain();
  }

  /** What the other processes are told of the one under way, with every step. */
  note(): SaveNote | undefined {
    return this.#saver?.note();
  }

  /** Takes in what all processes told. */
  async *observe(notes: readonly (SaveNote | undefined)[]): CheckpointEvents {
    yield* this.#tell(await this.#saver?.observe(notes));
  }

  /** Waits for the one under way. */
  async *drain(): CheckpointEvents {
    if (!this.#saver?.isBusy) return;
    this.#parallel.setTimeout(this.#settings.parallel.timeouts.firstStep);
    yield* this.#tell(await this.#saver.drain());
  }

  /** How one ended, as an event. A failure is a warning, or with `strict` the end. */
  *#tell(outcome: SaveOutcome | undefined): Generator<CheckpointEvent | WarningEvent, void, void> {
    if (!outcome) return;
    const { name, position, seconds, path, problem, cause } = outcome;
    if (path !== undefined) {
      this.#path = path;
      this.#lost = false;
      yield { type: "checkpoint", ...position, checkpoint: name, path, seconds };
      return;
    }
    this.#lost = true;
    this.#saved.globalStep = -1; // what was under way is as good as never begun
    if (this.#settings.strict) throw new TrainError("TRAIN_CHECKPOINT_WRITE", problem ?? "", { cause });
    const message = `${problem}. Training goes on; earlier checkpoints are as they were`;
    yield { type: "warning", globalStep: position.globalStep, code: "CHECKPOINT_WRITE", message };
  }

  /** Whether a run that stands there has something to lose. */
  isUnsaved({ globalStep, stage }: Progress): boolean {
    return globalStep > 0 && (this.#saved.globalStep !== globalStep || this.#saved.stage !== stage);
  }

  /** Whether the consumer was told that saving failed: to try once more would only fail again. */
  get isLost(): boolean {
    return this.#lost;
  }

  /**
   * Whether a run that is over has lost nothing. All processes call it alike; rank 0 looks whether the folder of the last
   * checkpoint is still there.
   */
  async isComplete(progress: Progress): Promise<boolean> {
    if (!this.#store) return true;
    if (this.#path !== undefined && this.#parallel.isMain && !existsSync(this.#path)) this.#saved.globalStep = -1;
    const own = !this.isUnsaved(progress);
    const [isSaved] = await this.#parallel.exchange("the last checkpoint", own);
    if (!isSaved) this.#saved.globalStep = -1;
    return isSaved;
  }

  /** What a user can do about a last checkpoint that cannot be written. */
  get wayOut(): string {
    const { folder = "" } = this.#store ?? {};
    return `free space on the disk of ${folder}, or move that folder to another disk and put a symbolic link in its place`;
  }

  /** The end of a run is the one moment when an unwritten checkpoint is lost work. */
  requireSaved(progress: Progress): void {
    if (!this.#store || !this.isUnsaved(progress)) return;
    this.#lost = true;
    const message = `the last checkpoint could not be written to ${this.#store.folder}`;
    const memory = "The model is still in memory, as trained: model.savePretrained(FOLDER) saves it elsewhere";
    throw new TrainError("TRAIN_CHECKPOINT_WRITE", `${message}. ${memory}; or ${this.wayOut}`);
  }

  /** Gives up what is under way, and waits for the threads. */
  async close(): Promise<void> {
    await this.#saver?.close();
  }
}
