import type { ObjectiveResult } from "../model/objective.js";
import type { ParallelModel } from "../parallel/index.js";
import * as torch from "../torch/index.js";
import { TrainError } from "./errors.js";

/** One metric of one micro-batch; without `total`, its value is the next one in the list on the device. */
interface Noted {
  name: string;
  weight: number;
  total: number | undefined;
}

/** A metric's weighted sum, and the sum of its weights. */
type Weighted = Record<string, [total: number, weight: number]>;

/** Counts of one process or of all processes. JSON. */
export interface StepCounts {
  normalizer: number;
  /** Metrics that are numbers on the host. */
  host: Weighted;
  /** Names and weights of the metrics on the device, in the order in which they are summed there. */
  device: [name: string, weight: number][];
}

/**
 * Sums of one optimizer step over its micro-batches and all processes. Losses and metrics on the device are summed
 * there and read once; counts and metrics on the host are exchanged in one small message.
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

  /** Adds the detached loss, the normalizer and the metrics of a micro-batch. The tensors are freed by {@link read}. */
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

  /** The counts of this process so far, which the others need for {@link reduce}. */
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
   * Sums the counts of all processes.
   *
   * @param all counts by rank
   * @returns the normalizer of the whole step
   * @throws TrainError TRAIN_OBJECTIVE if processes have different metrics on the device, which cannot be summed
   */
  reduce(all: readonly StepCounts[]): number {
    const names = (counts: StepCounts) => counts.device.map(([name]) => name).join();
    const own = names(this.counts());
    const other = all.findIndex((counts) => names(counts) !== own);
    if (other >= 0) {
      const message = `the objective's metrics on the device differ: [${own}] here, [${names(all[other])}] on rank ${other}`;
      throw new TrainError(
        "TRAIN_OBJECTIVE",
        `${message}. Return the same metrics for every micro-batch and on every process`,
      );
    }
    const normalizer = all.reduce((sum, counts) => sum + counts.normalizer, 0);
    this.#total = { normalizer, host: sumWeighted(all.map(({ host }) => host)), device: sumWeights(all) };
    return normalizer;
  }

  /** Waits for the device once and divides the sums by their weights. Call it after {@link reduce}. */
  async read(): Promise<{ loss: number; norm: number; metrics: Record<string, number> }> {
    const [loss, norm, ...onDevice] = await this.#numbers();
    // runs signal handlers and timers: nothing else in a CPU step yields to the event loop
    await new Promise((done) => setImmediate(done));
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
      sums[name] = [known[0] + (total ?? Number.NaN), known[1] + weight]; // JSON has no NaN: it arrives as null
    }
  }
  return sums;
}

function sumWeights(all: readonly { device: [name: string, weight: number][] }[]): [name: string, weight: number][] {
  return all[0].device.map(([name], i) => [name, all.reduce((sum, { device }) => sum + device[i][1], 0)]);
}
