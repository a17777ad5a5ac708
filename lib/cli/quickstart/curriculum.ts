import type { PreparedData } from "../../data/index.js";
import { clippedLinear } from "../../diffusion/index.js";
import { decayTo, warmupStable } from "../../nn/index.js";
import { autoregressive, blockDiffusion, type Stage } from "../../train/index.js";

/** Optimizer steps of the quickstart's three stages. */
export interface QuickstartSteps {
  compress: number;
  cpt: number;
  anneal: number;
}

export const BLOCK_SIZE = 4;
export const BATCH_SIZE = 8;

/** Shares of the training time: half for compressing knowledge by AR (section 3.1), half for diffusion. */
const SHARE = { compress: 0.5, cpt: 0.3, anneal: 0.2 };

/**
 * The paper's curriculum at small scale (section 3, Fig. 3): AR on clean contexts, its pre-anneal checkpoint, then
 * continual pre-training by block diffusion with B = 4, the mask-ratio warmup and the clipped noise, then the anneal.
 */
export function quickstartStages(data: PreparedData, steps: QuickstartSteps, hooks: Partial<Stage> = {}): Stage[] {
  const common = { data: data.loader, globalBatchSize: BATCH_SIZE };
  const diffusion = { ...common, blockSize: BLOCK_SIZE, noise: clippedLinear() };
  return [
    autoregressive({
      ...common,
      name: "compress",
      steps: steps.compress,
      lr: warmupStable(2e-3, { warmup: 0.04 }),
      checkpoint: "pre-anneal",
    }),
    blockDiffusion({
      ...diffusion,
      name: "cpt",
      steps: steps.cpt,
      lr: warmupStable(2e-3, { warmup: 0.04 }),
      warmup: { steps: Math.ceil(steps.cpt / 4) },
    }),
    { ...blockDiffusion({ ...diffusion, name: "anneal", steps: steps.anneal, lr: decayTo(0) }), ...hooks },
  ];
}

/** The numbers of steps for a training time, from the measured seconds of one AR and one diffusion step. */
export function stepsFor(seconds: number, step: { ar: number; diffusion: number }): QuickstartSteps {
  const fill = (share: number, cost: number) => Math.max(4, Math.floor((seconds * share) / cost));
  return {
    compress: fill(SHARE.compress, step.ar),
    cpt: fill(SHARE.cpt, step.diffusion),
    anneal: fill(SHARE.anneal, step.diffusion),
  };
}
