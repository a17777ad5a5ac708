import { EvaluationError } from "./errors.js";

/** Samples of one problem: how many there are, and how many of them passed. */
export interface Tally {
  n: number;
  correct: number;
}

/** A score between 0 and 1 with its 95 % interval. */
export interface Estimate {
  value: number;
  low: number;
  high: number;
}

/**
 * The unbiased estimator of pass@k for one problem, 1 - C(n-c, k) / C(n, k), as a product that does not overflow (Chen et al.,
 * "Evaluating Large Language Models Trained on Code", 2021, Eq. 1 and Fig. 3).
 *
 * @throws EvaluationError EVAL_OPTIONS if there are fewer than k samples: no unbiased estimate exists
 */
export function passAtK({ n, correct }: Tally, k: number): number {
  if (!Number.isInteger(k) || k < 1)
    throw new EvaluationError("EVAL_OPTIONS", `pass@k: k must be at least 1, got ${k}`);
  if (n < k)
    throw new EvaluationError("EVAL_OPTIONS", `pass@${k} needs at least ${k} samples of every problem, got ${n}`);
  if (n - correct < k) return 1;
  let miss = 1;
  for (let i = n - correct + 1; i <= n; i++) miss *= 1 - k / i;
  return 1 - miss;
}

const RESAMPLES = 2000;

/**
 * The mean over problems, with its 95 % percentile interval from resampling the problems. The same values and seed give the same
 * interval.
 *
 * @param values one score per problem
 * @throws EvaluationError EVAL_DATA if there is none
 */
export function bootstrap(values: readonly number[], seed: number): Estimate {
  if (values.length === 0) throw new EvaluationError("EVAL_DATA", "there is no problem to take a mean of");
  const mean = (sum: number) => sum / values.length;
  const random = uniform(seed);
  const means = Array.from({ length: RESAMPLES }, () => {
    let sum = 0;
    for (let i = 0; i < values.length; i++) sum += values[Math.floor(random() * values.length)];
    return mean(sum);
  }).sort((a, b) => a - b);
  const at = (share: number) => means[Math.min(RESAMPLES - 1, Math.floor(share * RESAMPLES))];
  return { value: mean(values.reduce((a, b) => a + b, 0)), low: at(0.025), high: at(0.975) };
}

/** Numbers in [0, 1) from a seed (mulberry32). */
function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = state;
    x = Math.imul(x ^ (x >>> 15), x | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}
