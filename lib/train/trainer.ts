import { type Batch, type DataWorkers, Prefetcher } from "../data/index.js";
import { communication } from "../distributed/index.js";
import { type Optimizer, scaleGradients } from "../nn/index.js";
import { type ParallelModel, shareOf } from "../parallel/index.js";
import * as torch from "../torch/index.js";
import { checkTokens, type MaskFound } from "./batch-check.js";
import type { RankFacts, SkipCause } from "./events.js";
import { checkResult, checkState, detachedMetrics } from "./objective-result.js";
import { type PlannedStage, rateAt } from "./plan.js";
import { resolvePrecision } from "./precision.js";
import type { StepContext } from "./stage.js";
import { StepSums } from "./step-sums.js";
import { failureOf } from "./user-code.js";

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

/** What a step did, on all processes together. */
export interface StepResult<Note = unknown> {
  /** Per unit of the normaliser. */
  loss: number;
  /** Of the whole step's gradient, before clipping. */
  gradNorm: number;
  lr: number;
  /** The objective's own. */
  metrics: Record<string, number>;
  /** Set when the model was not changed. */
  skipped?: SkipCause;
  /** The step's positions in the stream of samples: [first, first + batchSize). */
  position: number;
  /** The dataset's samples that this process read. */
  samples: number[];
  /** Seconds, of the whole step, of those waiting for data, and of those waiting for other processes. */
  seconds: number;
  dataSeconds: number;
  communicationSeconds: number;
  /** What each process tells of the step; one entry in a process of its own. */
  perRank: RankFacts[];
  /** What each process gave to {@link Trainer.step}, by rank. */
  notes: Note[];
}

/** Takes optimiser steps of one stage: batches, forward, backward, clip, update. */
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
    const { maskId = model.config.maskTokenId } = (stage.facts ?? {}) as { maskId?: number | null };
    this.#tokens = { vocabSize: model.config.vocabSize, maskId: maskId ?? undefined };
    const parts = ownParts(parallel, stage.batchSize, stage.accumulation);
    this.#batches = new Prefetcher(loader, { stride: stage.batchSize, parts, workers: dataWorkers });
  }

  /** Ends the threads that read ahead. A step after it reads its batches itself. */
  close(): void {
    this.#batches.close();
  }

  /**
   * One optimiser step. The gradients of the summed losses of all micro-batches and processes are divided by the sum of
   * their normalisers, so that cutting a batch differently changes nothing. The host waits for the device once, for the
   * numbers that are logged and that decide whether the step counts.
   *
   * @param note JSON that every process is told with the step's counts, asked for when they are
   */
  async step<Note>(place: StepPlace, note: () => Note): Promise<StepResult<Note>> {
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
    const busy = () => (performance.now() - start) / 1000 - (communication.waitSeconds - waitedBefore);
    const facts = { seconds: busy(), dataSeconds, rss: process.memoryUsage.rss() };
    const { normalizer, told } = await sums.agree({ facts, note: note() });
    const { loss, norm, metrics } = await sums.read();

    const skipped = causeToSkip(normalizer, loss, norm);
    if (skipped === undefined) {
      const clip = stage.clip === null ? 1 : Math.min(1, stage.clip / (norm + 1e-6));
      torch.scope(() => {
        scaleGradients(this.#parameters, clip / normalizer);
        this.updating = true;
        this.#optimizer.step(lr);
        this.updating = false;
      });
    }
    this.#optimizer.zeroGrad();
    return {
      loss,
      gradNorm: norm,
      lr,
      metrics,
      skipped,
      position,
      samples: batches.flatMap((batch) => batch.samples ?? []),
      seconds: (performance.now() - start) / 1000,
      dataSeconds,
      communicationSeconds: communication.waitSeconds - waitedBefore,
      perRank: told.map(({ facts }, rank) => ({ rank, ...facts })),
      notes: told.map(({ note }) => note),
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
  #accumulate(batch: Batch, context: StepContext, sums: StepSums, isLast: boolean): void {
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
function ownParts({ data }: ParallelModel, batchSize: number, accumulation: number): { from: number; to: number }[] {
  const own = shareOf(batchSize, data.rank, data.size);
  return Array.from({ length: accumulation }, (_, i) => {
    const { from, to } = shareOf(own.to - own.from, i, accumulation);
    return { from: own.from + from, to: own.from + to };
  });
}

const STREAM_STEP = 0x73746570; // "step"

function causeToSkip(normalizer: number, loss: number, norm: number): SkipCause | undefined {
  if (normalizer === 0) return "no targets";
  return Number.isFinite(loss) && Number.isFinite(norm) ? undefined : "not finite";
}
