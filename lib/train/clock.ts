import type { StageEnd } from "./stage.js";

/**
 * Says when a stage is over and how many steps it will have had. Where the stage ends after minutes that is an estimate
 * from the pace so far, so that a learning rate which decays over the stage reaches its end with it.
 */
export class StageClock {
  readonly #limit: number | null;
  readonly #steps: number | null;
  readonly #before: number;
  readonly #start = performance.now();
  readonly #firstStep: number;

  /**
   * @param steps of a stage that ends by steps, null otherwise
   * @param step steps done already, and `seconds` spent on them, when the stage goes on from a checkpoint
   */
  constructor(end: StageEnd, steps: number | null, step = 0, seconds = 0) {
    this.#limit = "minutes" in end ? end.minutes * 60 : null;
    this.#steps = steps;
    this.#before = seconds;
    this.#firstStep = step;
  }

  /** Seconds spent in the stage, over all processes. */
  get seconds(): number {
    return this.#before + (performance.now() - this.#start) / 1000;
  }

  /** Steps of the whole stage, as far as can be told when `step` of them are done. */
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
    // The step that would end nearer to the limit than this moment is still done.
    return step > 0 && limit - this.seconds < this.#pace(step) / 2;
  }

  /** Seconds a step, of this process's steps where there are some. */
  #pace(step: number): number {
    const own = step - this.#firstStep;
    if (own > 0) return (performance.now() - this.#start) / 1000 / own;
    if (step > 0 && this.#before > 0) return this.#before / step;
    return (this.#limit as number) / FIRST_GUESS;
  }
}

const FIRST_GUESS = 200;
