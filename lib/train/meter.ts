import type { DecoderConfig } from "../model/index.js";
import type { ParallelModel } from "../parallel/index.js";
import * as torch from "../torch/index.js";
import type { PlannedStage } from "./plan.js";
import type { StepResult } from "./trainer.js";

/** Speed of the processes relative to each other. Seconds count a process's own work, without waiting for others. */
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
 * Computes the logged metrics of a step:
 *
 * - `loss` per unit of the normaliser, `grad_norm` before clipping, `lr`;
 * - the metrics of the objective, such as `u_max`, `masked_share`, `empty_blocks`;
 * - `step_seconds`, `data_seconds` (waiting for batches), `tokens_per_second` (clean tokens), `positions_per_second`;
 * - `mfu`, the share of the device's peak, if the peak is known (see {@link flopsPerToken});
 * - with several processes: `ranks`, `communication_seconds` and `_share` (this process waiting for others),
 *   `step_seconds_min` and `_max` (each process's own work), `slowest_rank`, `straggler` (slowest / median - 1);
 * - `live_tensors`, `rss` and `device_memory` in bytes (the highest so far on a GPU).
 *
 * A loss or norm that is not finite is omitted.
 */
export class Meter {
  readonly #planned: PlannedStage;
  readonly #device: string;
  readonly #flopsPerToken: number;
  readonly #peak: number | undefined;
  readonly #ranks: number;

  /** @param peak floating-point operations per second; default: the peak of the device, if it is in the table */
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

/**
 * Floating-point operations of forward and backward passes per clean token: 6 for every weight that a position passes
 * through, and 12 * layers * heads * headDim * seqLen for attention (torchtitan's formula, which counts causal
 * attention as dense).
 *
 * Block diffusion computes two positions per token, so the layers count twice. The output head counts once per token,
 * however many tokens are masked: at most that many positions contribute to the loss. Embedding look-ups count as zero.
 *
 * @param parameters number of parameters of the whole model; tied ones count once
 */
export function flopsPerToken(
  config: DecoderConfig,
  parameters: number,
  length: number,
  positionsPerToken: number,
): number {
  const head = config.vocabSize * config.hiddenSize;
  const body = parameters - head * (config.tieWordEmbeddings ? 1 : 2);
  const attention = 12 * config.numLayers * config.numHeads * config.headDim * length;
  return positionsPerToken * (6 * body + attention) + 6 * head;
}

/**
 * Dense bfloat16 operations per second, from the vendors' data sheets. The first pattern that matches the device's name
 * applies.
 */
const PEAKS: readonly (readonly [RegExp, number])[] = [
  [/A100/, 312e12],
  [/A6000/, 154.85e12],
  [/H100 NVL/, 835e12],
  [/H100 PCIe/, 756e12],
  [/H100|H200|GH200/, 989e12],
  [/H20\b/, 148e12],
  [/B200/, 2250e12],
  [/L40S/, 362e12],
  [/RTX 4090/, 165e12],
];

/**
 * Peak of the device that MFU refers to, in operations per second; undefined for a CPU or a device that is not in the
 * table.
 */
export function peakFlops(device: string): number | undefined {
  if (!device.startsWith("cuda")) return undefined;
  const { name } = torch.cuda.deviceProperties(Number(device.split(":")[1] ?? 0));
  return PEAKS.find(([pattern]) => pattern.test(String(name)))?.[1];
}
