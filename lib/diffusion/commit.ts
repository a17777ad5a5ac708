import * as z from "zod";
import { DiffusionError } from "./errors.js";

/** State of the denoising of one block. */
export interface CommitState {
  /** Denoising step within the block, from 0. */
  step: number;
  /** Number of masked tokens at the first step of the block. */
  initiallyMasked: number;
  /**
   * Entropy in nats of the model's distribution at each position that is still masked, for rules with `usesEntropy`.
   */
  entropy?: Float64Array;
}

/**
 * Selects the masked positions of a block to commit after a denoising step: a pure function of the model's confidence
 * and the state of the block. Committed tokens are never masked again.
 */
export interface CommitRule {
  readonly name: string;
  /** The rule as data, which can be sent to an engine's worker. A custom rule has no config. */
  readonly config?: CommitConfig;
  /** Whether the rule needs `state.entropy`. */
  readonly usesEntropy?: boolean;
  /**
   * @param confidence probability of the sampled token at each position that is still masked, in order of position
   * @returns indices into `confidence`, at least one
   */
  choose(confidence: Float64Array, state: CommitState): number[];
}

/**
 * The published sampler's schedule: `steps` passes per block, each committing its share of the tokens in order of
 * confidence; the first passes commit one more if the division has a remainder. Ties go to the earlier position.
 *
 * @param options.steps passes per block; more than the number of masked tokens means one token per pass, which is the
 *   default
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

/** The static schedule's share or all positions above `value`, whichever commits more. */
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
 * Commits the n most confident tokens, with the largest n such that (n + 1)(1 - c_n) < factor, where c_n is the n-th
 * highest confidence, and at least one. The more tokens are committed together, the more confident each must be
 * (Fast-dLLM, factor-based parallel decoding).
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
 * Commits positions in order of increasing entropy while the sum of their entropies minus the largest one is at most
 * `bound` nats, and at least one. This bounds the cost of committing them independently (entropy-bounded unmasking).
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
      if (!entropy) throw new DiffusionError("DIFFUSION_OPTIONS", "the entropy rule needs state.entropy");
      const order = [...entropy.keys()].sort((a, b) => entropy[a] - entropy[b] || a - b);
      let sum = 0;
      let count = 0;
      // In sorted order the newest entropy is the largest, so the sum before it is compared.
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

/** Makes the rule of a {@link CommitConfig}; a rule is returned unchanged. */
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
