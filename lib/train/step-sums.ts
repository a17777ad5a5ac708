import type { ObjectiveResult } from "../model/objective.js";
import type { ParallelModel } from "../parallel/index.js";
import * as torch from "../torch/index.js";
import { TrainError } from "./errors.js";

/** One metric of one micro-batch; without a total, that is the next of the numbers on the device. */
interface Noted {
  name: string;
  weight: number;
  total: number | undefined;
}

/** A metric's weighted sum, and the sum of its weights. */
type Weighted = Record<string, [total: number, weight: number]>;

/** The counts of one process, or of all. JSON. */
export interface StepCounts {
  normalizer: number;
  /** Metrics that are numbers on the host. */
  host: Weighted;
  /** Names and weights of those on the device, in the order in which they are summed there. */
  device: [name: string, weight: number][];
}

/**
 * The numbers of one optimiser step, over its micro-batches and all processes. Losses and metrics on the device are summed
 * there and read once; counts and metrics on the host go in one small message.
 */
export class StepSums {
  readonly #parallel: ParallelModel;
  readonly #losses: torch.Tensor[] = [];
  readonly #noted: Noted[] = [];
  readonly #onDevice: { value: torch.Tensor; factor: number }[] = [];
  #normalizer = 0;
  #total: StepCounts | undefined;

  constructor(parallel: ParallelModel) {
    this.#parallel = parallel;
  }

  /** Adds a micro-batch's loss, detached, its normaliser and metrics. The tensors are freed by {@link read}. */
  add({ loss, normalizer, metrics }: ObjectiveResult): void {
    this.#losses.push(loss);
    this.#normalizer += normalizer;
    for (const [name, metric] of Object.entries(metrics ?? {})) {
      const isMean = typeof metric === "object" && !(metric instanceof torch.Tensor);
      const { total, count } = isMean ? metric : { total: metric, count: normalizer };
      const factor = isMean ? 1 : normalizer;
      if (total instanceof torch.Tensor) this.#onDevice.push({ value: total, factor });
      this.#noted.push({ name, weight: count, total: typeof total === "number" ? factor * total : undefined });
    }
  }

  /** What this process has counted so far; the others need it for {@link reduce}. */
  counts(): StepCounts {
    const { counts } = this.#parallel;
    const host: Weighted = {};
    const device: [string, number][] = [];
    for (const { name, weight, total } of this.#noted) {
      const own = counts ? weight : 0;
      if (total === undefined) device.push([name, own]);
      else if (counts) host[name] = [(host[name]?.[0] ?? 0) + total, (host[name]?.[1] ?? 0) + own];
    }
    return { normalizer: counts ? this.#normalizer : 0, host, device };
  }

  /**
   * Adds up the counts of all processes.
   *
   * @param all by rank
   * @returns the normaliser of the whole step
   * @throws TrainError TRAIN_OBJECTIVE when processes have different metrics on the device, which could not be summed
   */
  reduce(all: readonly StepCounts[]): number {
    const names = (counts: StepCounts) => counts.device.map(([name]) => name).join();
    const own = names(this.counts());
    const other = all.findIndex((counts) => names(counts) !== own);
    if (other >= 0) {
      const message = `the objective's metrics on the device differ: [${own}] here, [${names(all[other])}] on rank ${other}`;
      throw new TrainError("TRAIN_OBJECTIVE", `${message}. Give the same on every micro-batch and process`);
    }
    const normalizer = all.reduce((sum, counts) => sum + counts.normalizer, 0);
    this.#total = { normalizer, host: sumWeighted(all.map(({ host }) => host)), device: sumWeights(all) };
    return normalizer;
  }

  /** Waits for the device, once, and brings everything to its scale. After {@link reduce}. */
  async read(): Promise<{ loss: number; norm: number; metrics: Record<string, number> }> {
    const [loss, norm, ...onDevice] = await this.#numbers();
    await new Promise((done) => setImmediate(done)); // lets signals and timers in: nothing else in a CPU step waits
    const { normalizer, host, device } = this.#total as StepCounts;
    const fromDevice = device.map(([name, weight], i): Weighted => ({ [name]: [onDevice[i], weight] }));
    const metrics: Record<string, number> = {};
    for (const [name, [total, weight]] of Object.entries(sumWeighted([host, ...fromDevice]))) {
      metrics[name] = weight > 0 ? total / weight : 0;
    }
    if (normalizer === 0) return { loss: 0, norm: 0, metrics };
    return { loss: loss / normalizer, norm: norm / normalizer, metrics };
  }

  /** The summed loss, the norm of the summed gradients, then the weighted metrics on the device. */
  async #numbers(): Promise<number[]> {
    const { model, countsInLosses } = this.#parallel;
    const { device } = model;
    const flat = (value: torch.Tensor) => value.detach().to({ dtype: "float32", device }).reshape([]);
    const numbers = torch.scope(() => {
      const loss = torch.stack(this.#losses.map(flat)).sum();
      const metrics = this.#onDevice.map(({ value, factor }) => flat(value).mul(countsInLosses ? factor : 0));
      const sums = torch.stack([loss, ...metrics]).to({ dtype: "float64" });
      this.#parallel.sumLosses(sums);
      return torch.cat([sums, flat(this.#parallel.gradNorm()).to({ dtype: "float64" }).reshape([1])]);
    });
    for (const tensor of [...this.#losses, ...this.#onDevice.map(({ value }) => value)]) tensor.dispose();
    try {
      const [loss, ...rest] = Array.from(await numbers.toTypedArrayAsync(), Number);
      return [loss, rest.pop() as number, ...rest];
    } finally {
      numbers.dispose();
    }
  }
}

function sumWeighted(parts: readonly Weighted[]): Weighted {
  const sums: Weighted = {};
  for (const part of parts) {
    for (const [name, [total, weight]] of Object.entries(part)) {
      const known = sums[name] ?? [0, 0];
      sums[name] = [known[0] + (total ?? Number.NaN), known[1] + weight]; // JSON has no NaN: it crosses as null
    }
  }
  return sums;
}

function sumWeights(all: readonly { device: [name: string, weight: number][] }[]): [name: string, weight: number][] {
  return all[0].device.map(([name], i) => [name, all.reduce((sum, { device }) => sum + device[i][1], 0)]);
}
