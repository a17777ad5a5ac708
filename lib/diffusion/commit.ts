import * as z from "zod";
import { DiffusionError } from "./errors.js";

/** State of the denoising of one block. */
export interface CommitState {
  /** Denoising step within the block, from 0. */
  step: number;
  /** Number of masked tokens at the block's first step. */
  initiallyMasked: number;
  /** Entropy in nats of the model's distribution at each position still masked, for rules with `usesEntropy`. */
  entropy?: Float64Array;
}

/**
 * Which of a block's masked positions to commit after a denoising pass: a pure function of the model's confidence and
 * of where the block stands. Committed tokens are never masked again.
 */
export interface CommitRule {
  readonly name: string;
  /** The same rule as data, which can be sent to an engine's worker. A custom rule has none. */
  readonly config?: CommitConfig;
  /** Whether the state must hold entropies. */
  readonly usesEntropy?: boolean;
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
    config: { rule: "static", ...(Number.isFinite(steps) && { steps }) },
    choose(confidence, { step, initiallyMasked }) {
      const passes = Math.min(steps, initiallyMasked);
      const share = Math.floor(initiallyMasked / passes) + (step < initiallyMasked % passes ? 1 : 0);
      return mostConfident(confidence, share);
    },
  };
}

/** Commits every position whose confidence is above `value`, and always the most confident one. */
export function confidenceThreshold(value: number): CommitRule {
  if (!(value >= 0 && value <= 1)) {
    throw new DiffusionError("DIFFUSION_OPTIONS", `threshold must be in [0, 1], got ${value}`);
  }
  return {
    name: "threshold",
    config: { rule: "threshold", value },
    choose(confidence) {
      const above = [...confidence.keys()].filter((i) => confidence[i] > value);
      return above.length > 0 ? above : mostConfident(confidence, 1);
    },
  };
}

/** The static share or everything above `value`, whichever commits more. */
export function hybridRule(options: { value: number; steps?: number }): CommitRule {
  const share = staticSchedule(options);
  const above = confidenceThreshold(options.value);
  return {
    name: "hybrid",
    config: { rule: "hybrid", ...options },
    choose(confidence, state) {
      const [first, second] = [share.choose(confidence, state), above.choose(confidence, state)];
      return second.length > first.length ? second : first;
    },
  };
}

/**
 * The n most confident tokens, n the largest with (n + 1)(1 - c_n) < factor where c_n is the n-th highest confidence, and always
 * one: the more tokens are committed together, the more confident each must be (Fast-dLLM, factor-based parallel decoding).
 */
export function confidenceFactor(factor: number): CommitRule {
  if (!(factor > 0)) {
    throw new DiffusionError("DIFFUSION_OPTIONS", `the commit factor must be above 0, got ${factor}`);
  }
  return {
    name: "factor",
    config: { rule: "factor", factor },
    choose(confidence) {
      const sorted = Float64Array.from(confidence).sort().reverse();
      let count = 1;
      for (let n = 1; n <= sorted.length; n++) if ((n + 1) * (1 - sorted[n - 1]) < factor) count = n;
      return mostConfident(confidence, count);
    },
  };
}

/**
 * Positions by rising entropy, as long as the sum of their entropies less the largest of them is within `bound` nats: a
 * bound of what committing them independently can cost (entropy-bounded unmasking). Always one.
 */
export function entropyBound(bound: number): CommitRule {
  if (!(bound >= 0)) {
    throw new DiffusionError("DIFFUSION_OPTIONS", `the entropy bound must not be negative, got ${bound}`);
  }
  return {
    name: "entropy",
    config: { rule: "entropy", bound },
    usesEntropy: true,
    choose(_confidence, { entropy }) {
      if (!entropy) throw new DiffusionError("DIFFUSION_OPTIONS", "the entropy rule needs entropies");
      const order = [...entropy.keys()].sort((a, b) => entropy[a] - entropy[b] || a - b);
      let sum = 0;
      let count = 0;
      // Sorted, the newest is the largest: the sum before it is what counts.
      while (count < order.length && (count === 0 || sum <= bound)) sum += entropy[order[count++]];
      return order.slice(0, count).sort((a, b) => a - b);
    },
  };
}

/** Indices of the `count` highest values, ascending. */
function mostConfident(confidence: Float64Array, count: number): number[] {
  const order = [...confidence.keys()].sort((a, b) => confidence[b] - confidence[a] || a - b);
  return order.slice(0, count).sort((a, b) => a - b);
}

const steps = z.number().int().min(1).optional();
const probability = z.number().min(0).max(1);

/** A commit rule as data, as in a JSON request. */
export const commitConfigSchema = z.discriminatedUnion("rule", [
  z.strictObject({ rule: z.literal("static"), steps }),
  z.strictObject({ rule: z.literal("threshold"), value: probability }),
  z.strictObject({ rule: z.literal("hybrid"), value: probability, steps }),
  z.strictObject({ rule: z.literal("factor"), factor: z.number().gt(0).max(1000) }),
  z.strictObject({ rule: z.literal("entropy"), bound: z.number().min(0).max(1000) }),
]);
export type CommitConfig = z.infer<typeof commitConfigSchema>;

/** The rule that a {@link CommitConfig} describes; a rule is returned as it is. */
export function commitFromConfig(config: CommitConfig | CommitRule): CommitRule {
  if (!("rule" in config)) return config;
  switch (config.rule) {
    case "static":
      return staticSchedule(config);
    case "threshold":
      return confidenceThreshold(config.value);
    case "hybrid":
      return hybridRule(config);
    case "factor":
      return confidenceFactor(config.factor);
    case "entropy":
      return entropyBound(config.bound);
  }
}
