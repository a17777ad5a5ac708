import * as z from "zod";
import { DiffusionError } from "./errors.js";

/** Where the denoising of one block stands. */
export interface CommitState {
  /** Denoising step within the block, from 0. */
  step: number;
  /** Tokens that were masked when the block was begun. */
  initiallyMasked: number;
}

/**
 * Which of a block's masked positions to commit after a denoising pass: a pure function of how sure the model is and
 * of where the block stands. Committed tokens are never masked again.
 */
export interface CommitRule {
  readonly name: string;
  /**
   * @param confidence probability of the chosen token at each position still masked, in order of position
   * @returns indices into `confidence`, at least one
   */
  choose(confidence: Float64Array, state: CommitState): number[];
}

/**
 * The published sampler's schedule: `steps` passes per block, each committing its share of the tokens in order of
 * confidence; where the division leaves a remainder the first passes take one more. Ties go to the earlier position.
 *
 * @param options.steps passes per block; more than there are masked tokens means one token each. Default: that.
 */
export function staticSchedule(options: { steps?: number } = {}): CommitRule {
  const { steps = Number.POSITIVE_INFINITY } = options;
  if (!(steps >= 1) || (Number.isFinite(steps) && !Number.isInteger(steps))) {
    throw new DiffusionError("DIFFUSION_OPTIONS", `static schedule: steps must be a positive integer, got ${steps}`);
  }
  return {
    name: "static",
    choose(confidence, { step, initiallyMasked }) {
      const passes = Math.min(steps, initiallyMasked);
      const share = Math.floor(initiallyMasked / passes) + (step < initiallyMasked % passes ? 1 : 0);
      return mostConfident(confidence, share);
    },
  };
}

/** Commits every position whose confidence is above `value`, and always the surest one. */
export function confidenceThreshold(value: number): CommitRule {
  if (!(value >= 0 && value <= 1)) {
    throw new DiffusionError("DIFFUSION_OPTIONS", `threshold must be in [0, 1], got ${value}`);
  }
  return {
    name: "threshold",
    choose(confidence) {
      const above = [...confidence.keys()].filter((i) => confidence[i] > value);
      return above.length > 0 ? above : mostConfident(confidence, 1);
    },
  };
}

/** Indices of the `count` highest values, ascending. */
function mostConfident(confidence: Float64Array, count: number): number[] {
  const order = [...confidence.keys()].sort((a, b) => confidence[b] - confidence[a] || a - b);
  return order.slice(0, count).sort((a, b) => a - b);
}

/** A commit rule in a YAML or JSON file. */
export const commitConfigSchema = z.discriminatedUnion("rule", [
  z.strictObject({ rule: z.literal("static"), steps: z.number().int().min(1).optional() }),
  z.strictObject({ rule: z.literal("threshold"), value: z.number().min(0).max(1) }),
]);
export type CommitConfig = z.infer<typeof commitConfigSchema>;

/** The rule that a {@link CommitConfig} describes. */
export function commitFromConfig(config: CommitConfig): CommitRule {
  return config.rule === "static" ? staticSchedule(config) : confidenceThreshold(config.value);
}
