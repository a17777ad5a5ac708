import type { MeshInfo, RunInfo, StageInfo, StepEvent } from "../events.js";

/** Speed of training, smoothed over the last few seconds. */
export class Pace {
  #stepSeconds: number | undefined;
  #tokensPerSecond = 0;

  /** Clean tokens per second. */
  get tokensPerSecond(): number {
    return this.#tokensPerSecond;
  }

  /** Starts over for a new stage, whose steps may take a different time. */
  reset(): void {
    this.#stepSeconds = undefined;
  }

  /** Adds a step. */
  add({ metrics }: StepEvent): void {
    const seconds = metrics.step_seconds ?? 0;
    if (this.#stepSeconds === undefined) {
      this.#stepSeconds = seconds;
      this.#tokensPerSecond = metrics.tokens_per_second ?? 0;
      return;
    }
    // weighted by the duration of the step, with a time constant of ten seconds
    const weight = 1 - Math.exp(-seconds / 10);
    this.#stepSeconds += Math.max(weight, 0.02) * (seconds - this.#stepSeconds);
    this.#tokensPerSecond += Math.max(weight, 0.02) * ((metrics.tokens_per_second ?? 0) - this.#tokensPerSecond);
  }

  /** Seconds left in the whole run, assuming that later stages take the same time per position as this one. */
  secondsLeft(event: StepEvent, stages: readonly StageInfo[]): number {
    const own = (event.steps - event.step) * (this.#stepSeconds ?? 0);
    const here = stages[event.stage];
    if (!here) return own;
    const positions = (stage: StageInfo) => stage.globalBatchSize * stage.seqLen * stage.positionsPerToken;
    const perPosition = (this.#stepSeconds ?? 0) / positions(here);
    const later = stages.slice(event.stage + 1).map((stage) => (stage.steps ?? 0) * positions(stage) * perPosition);
    return later.reduce((sum, seconds) => sum + seconds, own);
  }
}

/**
 * The settings of a run as flat names and values: W&B's config, TensorBoard's hparams. The folder and the start time
 * are not settings and are left out.
 */
export function runSettings(run: RunInfo): Record<string, string | number> {
  const flat: Record<string, string | number> = {
    model: run.model,
    parameters: run.parameters,
    device: run.device,
    seed: run.seed,
  };
  for (const [name, value] of Object.entries(run.parallel ?? {})) flat[`parallel/${name}`] = value;
  for (const { name, ...facts } of run.stages) {
    for (const [key, value] of Object.entries(facts)) {
      if (value !== null) flat[`stages/${name}/${key}`] = value;
    }
  }
  for (const [name, version] of Object.entries(run.versions)) flat[`versions/${name}`] = version;
  return flat;
}

/** "replicate 2 x shard 4, 8 ranks (nccl)"; dimensions of size one are left out. */
export function meshText({ worldSize, backend, ...mesh }: MeshInfo): string {
  const names = ["replicate", "shard", "context", "tensor"] as const;
  const parts = names.filter((name) => mesh[name] > 1).map((name) => `${name} ${mesh[name]}`);
  const ranks = `${worldSize} ${worldSize === 1 ? "rank" : "ranks"} (${backend})`;
  return parts.length === 0 ? ranks : `${parts.join(" x ")}, ${ranks}`;
}
