import type { StageEnd } from "./stage.js";

/**
 * Decides when a stage is over and how many steps it has in total. For a stage that ends after a number of minutes, the
 * total is an estimate from the pace so far, so that a learning rate that decays over the stage reaches its final value
 * at the end.
 */
export class StageClock {
  readonly #limit: number | null;
  readonly #steps: number | null;
  readonly #before: number;
  readonly #start = performance.now();
  readonly #firstStep: number;

  /**
   * @param steps total steps of the stage; null for a stage that ends after a number of minutes
   * @param step steps already done, when the stage resumes from a checkpoint
   * @param seconds spent on those steps
   */
  constructor(end: StageEnd, steps: number | null, step = 0, seconds = 0) {
    this.#limit = "minutes" in end ? end.minutes * 60 : null;
    this.#steps = steps;
    this.#before = seconds;
    this.#firstStep = step;
  }

  /** Seconds spent in the stage, including the time before it was resumed. */
  get seconds(): number {
    return this.#before + (performance.now() - this.#start) / 1000;
  }

  /** Steps of the whole stage, estimated after `step` of them. */
  stepsAfter(step: number): number {
    if (this.#steps !== null) return this.#steps;
    const limit = this.#limit as number;
    const left = Math.max(0, limit - this.seconds);
    return Math.max(step + 1, Math.round(step + left / this.#pace(step)));
  }

  /** Whether the stage ends after `step` steps. */
  isOver(step: number): boolean {
    if (this.#steps !== null) return step >= this.#steps;
    const limit = this.#limit as number;
    // One more step is taken if its end would be closer to the limit than now.
    return step > 0 && limit - this.seconds < this.#pace(step) / 2;
  }

  /** Seconds per step, measured on this process's own steps if it has taken any. */
  #pace(step: number): number {
    const own = step - this.#firstStep;
    if (own > 0) return (performance.now() - this.#start) / 1000 / own;
    if (step > 0 && this.#before > 0) return this.#before / step;
    return (this.#limit as number) / FIRST_GUESS;
  }
}

const FIRST_GUESS = 200;
