import type { StageInfo, StepEvent } from "../events.js";

/** How fast training goes, smoothed over the last few seconds. */
export class Pace {
  #stepSeconds: number | undefined;
  #tokensPerSecond = 0;

  /** Clean tokens. */
  get tokensPerSecond(): number {
    return this.#tokensPerSecond;
  }

  /** A stage begins: its steps may take another time. */
  reset(): void {
    this.#stepSeconds = undefined;
  }

  /** Takes a step in. */
  add({ metrics }: StepEvent): void {
    const seconds = metrics.step_seconds ?? 0;
    if (this.#stepSeconds === undefined) {
      this.#stepSeconds = seconds;
      this.#tokensPerSecond = metrics.tokens_per_second ?? 0;
      return;
    }
    const weight = 1 - Math.exp(-seconds / 10); // a step counts by its length; ten seconds are remembered
    this.#stepSeconds += Math.max(weight, 0.02) * (seconds - this.#stepSeconds);
    this.#tokensPerSecond += Math.max(weight, 0.02) * ((metrics.tokens_per_second ?? 0) - this.#tokensPerSecond);
  }

  /** Of the whole run: later stages are taken to need as long for each position as this one. */
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
