import type { Batch } from "../data/index.js";
import type { Decoder } from "../model/index.js";
import { gradNorm, type Optimizer, scaleGradients } from "../nn/index.js";
import * as torch from "../torch/index.js";
import { TrainError } from "./errors.js";
import type { SkipCause } from "./events.js";
import { type PlannedStage, rateAt } from "./plan.js";
import { resolvePrecision } from "./precision.js";
import type { StageLoss, StepContext } from "./stage.js";

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

/** What a step did. */
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
  /** The step's positions in the stream of samples, and the dataset's samples there. */
  indices: number[];
  samples: number[];
  /** Seconds, of the whole step and of those waiting for data. */
  seconds: number;
  dataSeconds: number;
}

/** Takes optimiser steps of one stage: batches, forward, backward, clip, update. */
export class Trainer {
  readonly #planned: PlannedStage;
  readonly #model: Decoder;
  readonly #optimizer: Optimizer;
  readonly #parameters: torch.Tensor[];
  readonly #state: Record<string, unknown>;
  readonly #autocast: torch.AutocastOptions;
  #ahead: { position: number; batches: Batch[] } | undefined;
  /** True while weights are being changed; stays so when that fails halfway. */
  updating = false;

  /** @param state the objective's own memory, JSON; it is changed in place */
  constructor(planned: PlannedStage, model: Decoder, optimizer: Optimizer, state: Record<string, unknown>) {
    this.#planned = planned;
    this.#model = model;
    this.#optimizer = optimizer;
    this.#parameters = model.parameters().filter((parameter) => parameter.requiresGrad);
    this.#state = state;
    const precision = resolvePrecision(planned.stage.precision, model.device);
    this.#autocast = { device: model.device, dtype: "bfloat16", enabled: precision === "bfloat16" };
  }

  /**
   * One optimiser step. The gradients of the summed losses of all micro-batches are divided by the sum of their
   * normalisers, so that cutting a batch differently changes nothing. The host waits for the device once, for the
   * numbers that are logged and that decide whether the step counts.
   */
  async step(place: StepPlace): Promise<StepResult> {
    const { stage, index, seed } = this.#planned;
    const { step, steps, position, previousRate, gradNorm } = place;
    const start = performance.now();
    const batches = this.#take(position);
    const dataSeconds = (performance.now() - start) / 1000;
    const lr = rateAt(stage, step, { steps, previous: previousRate });
    const context = { seed, stage: index, step, steps, device: this.#model.device, state: this.#state, gradNorm };

    torch.manualSeed(new torch.Philox(seed, STREAM_STEP, index, step).below(2 ** 48));
    const summed = torch.scope(() => this.#accumulate(batches, context));
    this.#prepare(position + stage.batchSize); // while the device works
    const { loss, norm, metrics } = await readNumbers(summed);

    const skipped = causeToSkip(summed.normalizer, loss, norm);
    if (skipped === undefined) {
      const clip = stage.clip === null ? 1 : Math.min(1, stage.clip / (norm + 1e-6));
      torch.scope(() => {
        scaleGradients(this.#parameters, clip / summed.normalizer);
        this.updating = true;
        this.#optimizer.step(lr);
        this.updating = false;
      });
    }
    this.#optimizer.zeroGrad();
    const indices = batches.flatMap((batch) => batch.indices);
    const samples = batches.flatMap((batch) => batch.samples ?? []);
    const seconds = (performance.now() - start) / 1000;
    return { loss, gradNorm: norm, lr, metrics, skipped, indices, samples, seconds, dataSeconds };
  }

  /** Forward and backward of every micro-batch; leaves the summed gradients on the parameters. */
  #accumulate(batches: readonly Batch[], context: StepContext): Summed {
    const losses: torch.Tensor[] = [];
    const noted: Noted[] = [];
    const onDevice: torch.Tensor[] = [];
    let normalizer = 0;
    for (const batch of batches) {
      const result = torch.scope(() => {
        const result = torch.autocast(this.#autocast, () => this.#planned.stage.objective(this.#model, batch, context));
        this.#check(result);
        if (result.loss.requiresGrad) result.loss.backward();
        return { ...result, loss: result.loss.detach() };
      });
      losses.push(result.loss);
      normalizer += result.normalizer;
      for (const [name, value] of Object.entries(result.metrics ?? {})) {
        if (value instanceof torch.Tensor) onDevice.push(value);
        noted.push({ name, weight: result.normalizer, value: value instanceof torch.Tensor ? undefined : value });
      }
    }
    const scalars = [torch.stack(losses).sum(), gradNorm(this.#parameters), ...onDevice];
    const { device } = this.#model;
    const numbers = torch.stack(scalars.map((scalar) => scalar.detach().to({ dtype: "float32", device }).reshape([])));
    return { numbers, normalizer, noted };
  }

  #check({ loss, normalizer }: StageLoss): void {
    const { name } = this.#planned.stage;
    const wrong = (what: string) => new TrainError("TRAIN_OBJECTIVE", `stage '${name}': the objective's ${what}`);
    if (!(loss instanceof torch.Tensor)) throw wrong("loss is no tensor");
    if (loss.numel() !== 1) throw wrong(`loss has shape [${loss.shape}], expected one number: the sum over the batch`);
    if (!(normalizer >= 0 && Number.isFinite(normalizer))) {
      throw wrong(`normalizer is ${normalizer}, expected the count that the summed loss is divided by`);
    }
    if (normalizer > 0 && !loss.requiresGrad) throw wrong("loss does not depend on the model's weights");
  }

  /** The micro-batches at a position: those prepared ahead, or read now. */
  #take(position: number): Batch[] {
    const ahead = this.#ahead;
    this.#ahead = undefined;
    return ahead?.position === position ? ahead.batches : this.#read(position);
  }

  #prepare(position: number): void {
    try {
      this.#ahead = { position, batches: this.#read(position) };
    } catch {
      // The step at hand does not need it. The next one reads again and says what is wrong.
    }
  }

  #read(position: number): Batch[] {
    const { stage, loader } = this.#planned;
    const size = stage.batchSize / stage.accumulation;
    return Array.from({ length: stage.accumulation }, (_, i) => loader.batchAt(position + i * size, size));
  }
}

const STREAM_STEP = 0x73746570; // "step"

/** One metric of one micro-batch; without a value it is the next of the numbers on the device. */
interface Noted {
  name: string;
  weight: number;
  value: number | undefined;
}

/** A step's sums while the device still works on them. */
interface Summed {
  /** float32: the summed loss, the norm of the summed gradients, then the metrics that are tensors. */
  numbers: torch.Tensor;
  normalizer: number;
  noted: Noted[];
}

/** Waits for the device, once, and brings everything to its scale. */
async function readNumbers({ numbers, normalizer, noted }: Summed) {
  const [loss, norm, ...onDevice] = Array.from(await numbers.toTypedArrayAsync(), Number);
  numbers.dispose();
  await new Promise((done) => setImmediate(done)); // lets signals and timers in: nothing else in a CPU step waits
  const sums = new Map<string, { total: number; weight: number }>();
  for (const { name, weight, value } of noted) {
    const number = value ?? (onDevice.shift() as number);
    const sum = sums.get(name) ?? { total: 0, weight: 0 };
    const share = normalizer > 0 ? weight / normalizer : 1 / noted.length;
    sums.set(name, { total: sum.total + share * number, weight: sum.weight + share });
  }
  const metrics: Record<string, number> = {};
  for (const [name, { total, weight }] of sums) metrics[name] = weight > 0 ? total / weight : 0;
  if (normalizer === 0) return { loss: 0, norm: 0, metrics };
  return { loss: loss / normalizer, norm: norm / normalizer, metrics };
}

function causeToSkip(normalizer: number, loss: number, norm: number): SkipCause | undefined {
  if (normalizer === 0) return "no targets";
  return Number.isFinite(loss) && Number.isFinite(norm) ? undefined : "not finite";
}
