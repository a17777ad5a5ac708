import type { ParallelModel } from "../parallel/index.js";
import * as torch from "../torch/index.js";
import { flopsPerToken, peakFlops } from "./flops.js";
import type { PlannedStage } from "./plan.js";
import type { StepResult } from "./trainer.js";

/** The names that {@link Meter} gives: no objective's metric may take one's place. */
export const OWN_METRICS: ReadonlySet<string> = new Set([
  ...["loss", "grad_norm", "lr", "step_seconds", "data_seconds", "tokens_per_second", "positions_per_second", "mfu"],
  ...["live_tensors", "rss", "device_memory", "ranks", "communication_seconds", "communication_share"],
  ...["step_seconds_min", "step_seconds_max", "slowest_rank", "straggler"],
]);

/** How the processes of a run keep pace. Seconds are those of a process's own work, without waiting for others. */
function overRanks({ perRank, seconds, communicationSeconds }: StepResult): Record<string, number> {
  const sorted = [...perRank].sort((a, b) => a.seconds - b.seconds);
  const half = (sorted.length - 1) / 2;
  const median = (sorted[Math.floor(half)].seconds + sorted[Math.ceil(half)].seconds) / 2;
  const [first, last] = [sorted[0], sorted[sorted.length - 1]];
  return {
    ranks: perRank.length,
    communication_seconds: communicationSeconds,
    communication_share: communicationSeconds / seconds,
    step_seconds_min: first.seconds,
    step_seconds_max: last.seconds,
    slowest_rank: last.rank,
    straggler: last.seconds / median - 1,
  };
}

/**
 * Turns what a step did into the numbers that are logged:
 *
 * - `loss` per unit of the normaliser, `grad_norm` before clipping, `lr`;
 * - the objective's own, such as `u_max`, `masked_share`, `empty_blocks`;
 * - `step_seconds`, `data_seconds` (waiting for batches), `tokens_per_second` (clean ones), `positions_per_second`;
 * - `mfu`, the share of the device's peak, where that is known (see {@link flopsPerToken});
 * - of several processes `ranks`, `communication_seconds` and `_share` (this process waiting for others),
 *   `step_seconds_min` and `_max` (each process's own work), `slowest_rank`, `straggler` (slowest / median - 1);
 * - `live_tensors`, `rss` and `device_memory` in bytes (the highest so far on a GPU).
 *
 * A loss or norm that is not a number is left out.
 */
export class Meter {
  readonly #planned: PlannedStage;
  readonly #device: string;
  readonly #flopsPerToken: number;
  readonly #peak: number | undefined;
  readonly #ranks: number;

  /** @param peak operations a second; by default the device's, if it is a known one */
  constructor(planned: PlannedStage, parallel: ParallelModel, peak?: number) {
    const { model, world } = parallel;
    const { seqLen } = planned.loader.dataset;
    this.#planned = planned;
    this.#device = model.device;
    this.#flopsPerToken = flopsPerToken(
      model.config,
      parallel.numParameters(),
      seqLen,
      planned.stage.positionsPerToken,
    );
    this.#peak = peak ?? peakFlops(model.device);
    this.#ranks = world?.size ?? 1;
  }

  measure(step: StepResult): Record<string, number> {
    const { tokensPerStep, stage } = this.#planned;
    const tokensPerSecond = tokensPerStep / step.seconds;
    const numbers: Record<string, number> = {
      loss: step.skipped === "no targets" ? Number.NaN : step.loss,
      grad_norm: step.gradNorm,
      lr: step.lr,
      ...step.metrics,
      step_seconds: step.seconds,
      data_seconds: step.dataSeconds,
      tokens_per_second: tokensPerSecond,
      positions_per_second: tokensPerSecond * stage.positionsPerToken,
      mfu: this.#peak === undefined ? Number.NaN : (tokensPerSecond * this.#flopsPerToken) / (this.#peak * this.#ranks),
      ...this.#memory(),
      ...(this.#ranks > 1 && overRanks(step)),
    };
    return Object.fromEntries(Object.entries(numbers).filter(([, value]) => Number.isFinite(value)));
  }

  #memory(): Record<string, number> {
    const usage = { live_tensors: torch.memory().tensors, rss: process.memoryUsage.rss() };
    if (!this.#device.startsWith("cuda")) return usage;
    const index = Number(this.#device.split(":")[1] ?? 0);
    return { ...usage, device_memory: torch.cuda.memoryStats(index).peakAllocated };
  }
}
