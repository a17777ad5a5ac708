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

/** Position of a step, and the state that it needs from earlier steps. */
export interface StepPlace {
  /** Optimizer step within the stage, from 0. */
  step: number;
  /** Total steps of the stage. */
  steps: number;
  /** First position in the data stream that this step reads. */
  position: number;
  /** The final learning rate of the previous stage. */
  previousRate?: number;
  /** Gradient norm of the previous step. */
  gradNorm?: number;
}

/** Report of one process on the first half of a step, sent to the others. JSON. */
export interface StepReport {
  counts: StepCounts;
  stats: Omit<RankStats, "rank">;
}

/** A step whose gradients are computed but not yet applied. */
export interface PendingStep {
  /** The report of this process. {@link Trainer.update} needs those of all processes. */
  report: StepReport;
  /** @internal */
  sums: StepSums;
  lr: number;
  position: number;
  samples: number[];
  /** performance.now() at its start, and the seconds spent waiting for other processes before it. */
  start: number;
  waitedBefore: number;
}

/** Result of a step, over all processes. */
export interface StepResult {
  /** Loss per unit of the normalizer. */
  loss: number;
  /** L2 norm of the gradient of the whole step, before clipping. */
  gradNorm: number;
  lr: number;
  /** Metrics of the objective. */
  metrics: Record<string, number>;
  /** Set if the model was not changed. */
  skipped?: SkipCause;
  /** First position of the step in the stream of samples; it reads [position, position + globalBatchSize). */
  position: number;
  /** Indices of the dataset's samples that this process read. */
  samples: number[];
  /** Seconds of the whole step, the part waiting for data, and the part waiting for other processes. */
  seconds: number;
  dataSeconds: number;
  communicationSeconds: number;
  /** Statistics of each process; one entry in a run of one process. */
  perRank: RankStats[];
}

/** Runs the optimizer steps of one stage: batches, forward, backward; then clipping and update. */
export class Trainer {
  readonly #planned: PlannedStage;
  readonly #parallel: ParallelModel;
  readonly #optimizer: Optimizer;
  readonly #parameters: torch.Tensor[];
  readonly #state: Record<string, unknown>;
  readonly #autocast: torch.AutocastOptions;
  readonly #batches: Prefetcher;
  readonly #tokens: { vocabSize: number; maskId: number | undefined };
  /** True while weights are being updated, and after an update that failed halfway. */
  updating = false;
  /** A sample of the last step with mask tokens in its clean text, if there was one. */
  maskFound: MaskFound | undefined;

  /**
   * @param state the objective's state, JSON; it is changed in place
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

  /** Ends the prefetching threads. A later step reads its batches in this thread. */
  close(): void {
    this.#batches.close();
  }

  /**
   * The first half of a step: computes the gradients of the summed losses of all micro-batches, summed over processes.
   * The weights are unchanged. The processes then exchange their reports and pass all of them to {@link update}.
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

    const { rank } = this.#parallel.data; // processes with different sequences draw different random numbers
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
   * The second half of a step: divides the gradients by the sum of all normalizers, so that the result does not depend
   * on how the batch is split, clips them and updates the weights. The update is skipped if there are no targets or if
   * the loss or the norm is not finite. The host waits for the device once, to read the metrics and to decide on
   * skipping.
   *
   * @param reports reports of all processes, by rank
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

  /** Reads and checks the batches of a step. */
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

  /** Forward and backward of one micro-batch; adds to the gradients of the parameters and to the sums. */
  #accumulate(batch: Batch, context: ObjectiveContext, sums: StepSums, isLast: boolean): void {
    const { model } = this.#parallel;
    const where = this.#at(context.step);
    try {
      const result = torch.scope(() => {
        const { loss, normalizer, metrics } = torch.autocast(this.#autocast, () => {
          const result: unknown = this.#planned.stage.objective(model, batch, context);
          checkResult(where, result); // checked here, because autocast's error for a promise would be less clear
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

/** This process's sequences of a step, split into micro-batches. */
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

/** Message for a skipped step, with the position of its data. */
export function skippedMessage(
  { loss, gradNorm, position }: StepResult,
  planned: PlannedStage,
  skippedSoFar: number,
): string {
  const where = `positions ${range(position, planned)} of the stream`;
  return `step skipped: loss ${loss}, gradient norm ${gradNorm} at ${where}; ${skippedSoFar} skipped so far`;
}

/** The error that ends a run after too many skipped steps in a row. */
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
 * Rejects an optimizer that needs whole matrices if the parameters are sharded over processes.
 *
 * @throws TrainError TRAIN_OPTIONS
 */
export function requireElementwise(optimizer: Optimizer, { isWhole, shape }: ParallelModel, stage: string): void {
  if (isWhole || optimizer.elementwise === true) return;
  const { shard, tensor } = shape;
  throw new TrainError(
    "TRAIN_OPTIONS",
    `stage '${stage}': its optimizer does not declare \`elementwise: true\`, and the parameters are sharded (shard ${shard}, tensor ${tensor}): ` +
      "declare it if the update of each element depends on the gradient of that element alone, or train with shard: 1 and tensor: 1",
  );
}
