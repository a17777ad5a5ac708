import { type DataWorkers, Prefetcher } from "../data/index.js";
import { communication } from "../distributed/index.js";
import type { Batch, ObjectiveContext } from "../model/index.js";
import { type Optimizer, scaleGradients } from "../nn/index.js";
import { type ParallelModel, shareOf } from "../parallel/index.js";
import * as torch from "../torch/index.js";
import { checkTokens, type MaskFound } from "./batch-check.js";
import { TrainError } from "./errors.js";
import type { Position, RankStats, SkipCause } from "./events.js";
import { type PlannedStage, rateAt } from "./plan.js";
import { resolvePrecision } from "./precision.js";
import { type StepCounts, StepSums } from "./step-sums.js";
import { failureOf } from "./user-code.js";
import { checkResult, checkState, detachedMetrics } from "./user-results.js";

/** Where a step stands, and what it needs of the steps before it. */
export interface StepPlace {
  /** Optimiser step within the stage, from 0. */
  step: number;
  /** Of the whole stage. */
  steps: number;
  /** First position of the data's stream that this step reads. */
  position: number;
  /** The learning rate that the stage before ended with. */
  previousRate?: number;
  /** Gradient norm of the step before. */
  gradNorm?: number;
}

/** What a process reports of its half of a step, for the others. JSON. */
export interface StepReport {
  counts: StepCounts;
  stats: Omit<RankStats, "rank">;
}

/** A step whose gradients are computed and not yet applied. */
export interface PendingStep {
  /** This process's. {@link Trainer.update} needs those of all processes. */
  report: StepReport;
  /** @internal */
  sums: StepSums;
  lr: number;
  position: number;
  samples: number[];
  /** performance.now() at its beginning, and the seconds that were waited for other processes before it. */
  start: number;
  waitedBefore: number;
}

/** What a step did, on all processes together. */
export interface StepResult {
  /** Per unit of the normaliser. */
  loss: number;
  /** Of the whole step's gradient, before clipping. */
  gradNorm: number;
  lr: number;
  /** The objective's own. */
  metrics: Record<string, number>;
  /** Set when the model was not changed. */
  skipped?: SkipCause;
  /** The step's positions in the stream of samples: [first, first + globalBatchSize). */
  position: number;
  /** The dataset's samples that this process read. */
  samples: number[];
  /** Seconds, of the whole step, of those waiting for data, and of those waiting for other processes. */
  seconds: number;
  dataSeconds: number;
  communicationSeconds: number;
  /** What each process tells of the step; one entry in a process of its own. */
  perRank: RankStats[];
}

/** Takes optimiser steps of one stage: batches, forward, backward; then clip and update. */
export class Trainer {
  readonly #planned: PlannedStage;
  readonly #parallel: ParallelModel;
  readonly #optimizer: Optimizer;
  readonly #parameters: torch.Tensor[];
  readonly #state: Record<string, unknown>;
  readonly #autocast: torch.AutocastOptions;
  readonly #batches: Prefetcher;
  readonly #tokens: { vocabSize: number; maskId: number | undefined };
  /** True while weights are being changed; stays so when that fails halfway. */
  updating = false;
  /** Clean text with mask tokens in it, in the last step's batches. */
  maskFound: MaskFound | undefined;

  /**
   * @param state the objective's own memory, JSON; it is changed in place
   * @param dataWorkers threads that read batches ahead
   */
  constructor(
    planned: PlannedStage,
    parallel: ParallelModel,
    optimizer: Optimizer,
    state: Record<string, unknown>,
    dataWorkers: DataWorkers = "auto",
  ) {
    const { model } = parallel;
    this.#planned = planned;
    this.#parallel = parallel;
    this.#optimizer = optimizer;
    this.#parameters = model.parameters().filter((parameter) => parameter.requiresGrad);
    this.#state = state;
    const precision = resolvePrecision(planned.stage.precision, model.device);
    this.#autocast = { device: model.device, dtype: "bfloat16", enabled: precision === "bfloat16" };
    const { stage, loader } = planned;
    const { maskId = model.config.maskTokenId } = (stage.fingerprint ?? {}) as { maskId?: number | null };
    this.#tokens = { vocabSize: model.config.vocabSize, maskId: maskId ?? undefined };
    const parts = ownParts(parallel, stage.globalBatchSize, stage.gradientAccumulationSteps);
    this.#batches = new Prefetcher(loader, { stride: stage.globalBatchSize, parts, workers: dataWorkers });
  }

  /** Ends the threads that read ahead. A step after it reads its batches itself. */
  close(): void {
    this.#batches.close();
  }

  /**
   * The first half of a step: the gradients of the summed losses of all micro-batches, summed over processes. Nothing is
   * changed yet. The processes then exchange their reports, with whatever else they have to say to each other, and
   * {@link update} takes them.
   */
  async forwardBackward(place: StepPlace): Promise<PendingStep> {
    const { stage, index, seed } = this.#planned;
    const { step, steps, position, previousRate, gradNorm } = place;
    const { device } = this.#parallel.model;
    const start = performance.now();
    const waitedBefore = communication.waitSeconds;
    const batches = await this.#take(step, position);
    const dataSeconds = (performance.now() - start) / 1000;
    const lr = rateAt(stage, step, { steps, previous: previousRate });
    const context = { seed, stage: index, step, steps, device, state: this.#state, gradNorm };

    const { rank } = this.#parallel.data; // processes with other sequences draw other numbers
    torch.manualSeed(new torch.Philox(seed, STREAM_STEP, index, step, ...(rank > 0 ? [rank] : [])).below(2 ** 48));
    const sums = new StepSums(this.#parallel);
    for (const [i, batch] of batches.entries()) this.#accumulate(batch, context, sums, i === batches.length - 1);
    if (step === 0) checkState(this.#at(step), this.#state);
    this.#batches.readAhead(); // while the device works
    this.#parallel.finishGradients();
    const seconds = (performance.now() - start) / 1000 - (communication.waitSeconds - waitedBefore);
    const stats = { seconds, dataSeconds, rss: process.memoryUsage.rss() };
    const samples = batches.flatMap((batch) => batch.samples ?? []);
    return { report: { counts: sums.counts(), stats }, sums, lr, position, samples, start, waitedBefore };
  }

  /**
   * The second half: divides the gradients by the sum of all normalisers, so that cutting a batch differently changes
   * nothing, clips them, and lets the optimiser update the weights, unless there were no targets or a number is not finite.
   * The host waits for the device once, for the numbers that are logged and that decide whether the step counts.
   *
   * @param reports of all processes, by rank
   */
  async update({ report, sums, ...pending }: PendingStep, reports: readonly StepReport[]): Promise<StepResult> {
    const normalizer = sums.reduce(reports.map(({ counts }) => counts));
    const { loss, norm, metrics } = await sums.read();
    const skipped = causeToSkip(normalizer, loss, norm);
    if (skipped === undefined) {
      const { maxGradNorm: limit } = this.#planned.stage;
      const clip = limit === null ? 1 : Math.min(1, limit / (norm + 1e-6));
      torch.scope(() => {
        scaleGradients(this.#parameters, clip / normalizer);
        this.updating = true;
        this.#optimizer.step(pending.lr);
        this.updating = false;
      });
    }
    this.#optimizer.zeroGrad();
    const { lr, position, samples, start, waitedBefore } = pending;
    return {
      ...{ loss, gradNorm: norm, lr, metrics, skipped, position, samples },
      seconds: (performance.now() - start) / 1000,
      dataSeconds: report.stats.dataSeconds,
      communicationSeconds: communication.waitSeconds - waitedBefore,
      perRank: reports.map(({ stats }, rank) => ({ rank, ...stats })),
    };
  }

  /** The batches of a step, whose tokens the model knows. */
  async #take(step: number, position: number): Promise<Batch[]> {
    const where = this.#at(step);
    let batches: Batch[];
    try {
      batches = await this.#batches.take(position);
    } catch (error) {
      throw failureOf("TRAIN_DATA", `${where}: reading data`, error);
    }
    this.maskFound = undefined;
    for (const batch of batches) this.maskFound = checkTokens(where, batch, this.#tokens) ?? this.maskFound;
    return batches;
  }

  /** Forward and backward of one micro-batch; adds its gradients to the parameters', its numbers to the sums. */
  #accumulate(batch: Batch, context: ObjectiveContext, sums: StepSums, isLast: boolean): void {
    const { model } = this.#parallel;
    const where = this.#at(context.step);
    try {
      const result = torch.scope(() => {
        const { loss, normalizer, metrics } = torch.autocast(this.#autocast, () => {
          const result: unknown = this.#planned.stage.objective(model, batch, context);
          checkResult(where, result); // before autocast complains of a promise in words of its own
          return result;
        });
        this.#parallel.backward(loss, { isLast });
        return { loss: loss.detach(), normalizer, metrics: detachedMetrics(metrics) };
      });
      sums.add(result);
    } catch (error) {
      throw failureOf("TRAIN_OBJECTIVE", `${where}: the objective`, error);
    }
  }

  #at(step: number): string {
    return `stage '${this.#planned.stage.name}', step ${step + 1}`;
  }
}

/** This process's share of a step's sequences, cut into micro-batches. */
function ownParts({ data }: ParallelModel, batchSize: number, numParts: number): { from: number; to: number }[] {
  const own = shareOf(batchSize, data.rank, data.size);
  return Array.from({ length: numParts }, (_, i) => {
    const { from, to } = shareOf(own.to - own.from, i, numParts);
    return { from: own.from + from, to: own.from + to };
  });
}

const STREAM_STEP = 0x73746570; // "step"

function causeToSkip(normalizer: number, loss: number, norm: number): SkipCause | undefined {
  if (normalizer === 0) return "no targets";
  return Number.isFinite(loss) && Number.isFinite(norm) ? undefined : "not finite";
}

/** Says which step was skipped and where its data lies. */
export function skippedMessage(
  { loss, gradNorm, position }: StepResult,
  planned: PlannedStage,
  skippedSoFar: number,
): string {
  const where = `positions ${range(position, planned)} of the stream`;
  return `step skipped: loss ${loss}, gradient norm ${gradNorm} at ${where}; ${skippedSoFar} skipped so far`;
}

/** The error that ends a run when skipping does not help. */
export function divergence(
  { loss, gradNorm, position }: StepResult,
  planned: PlannedStage,
  at: Position,
  inARow: number,
): TrainError {
  const { stage, loader } = planned;
  const samples = Array.from({ length: stage.globalBatchSize }, (_, i) => loader.order.at(position + i).sample);
  const title = `stage '${at.name}': loss or gradient was not finite in ${inARow} steps in a row, up to step ${at.step}`;
  const last = `the last one had loss ${loss}, gradient norm ${gradNorm}`;
  const where = `at positions ${range(position, planned)} of the stream, samples ${samples.join(", ")} of the data`;
  return new TrainError("TRAIN_NOT_FINITE", `${title}; ${last}, ${where}. The weights are those of the last good step`);
}

function range(position: number, { stage }: PlannedStage): string {
  return stage.globalBatchSize === 1 ? String(position) : `${position} to ${position + stage.globalBatchSize - 1}`;
}

/**
 * Refuses an optimiser that needs whole matrices where processes have parts of them.
 *
 * @throws TrainError TRAIN_OPTIONS
 */
export function requireElementwise(optimizer: Optimizer, { isWhole, shape }: ParallelModel, stage: string): void {
  if (isWhole || optimizer.elementwise === true) return;
  const { shard, tensor } = shape;
  throw new TrainError(
    "TRAIN_OPTIONS",
    `stage '${stage}': its optimizer does not say \`elementwise: true\`, and parameters are cut (shard ${shard}, tensor ${tensor}): ` +
      "declare it if each number's update depends on that number's gradient alone, or train with shard: 1 and tensor: 1",
  );
}
