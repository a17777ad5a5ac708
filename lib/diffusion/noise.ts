import * as z from "zod";
import { DiffusionError } from "./errors.js";

/**
 * The forward process as a plain object: the probability that a token is masked at time t, and the loss weight of a
 * masked token. Time runs from 0 (clean) to 1 (all masked); section 3.3 of the paper writes the same schedule with
 * reversed time.
 *
 * `u` and `weight` are pure. A custom schedule is any object of this shape, see {@link customNoise}.
 */
export interface NoiseSchedule {
  readonly name: string;
  /** u(t), the probability in [0, 1] that a token is masked at time t in [0, 1]; non-decreasing in t. */
  u(t: number): number;
  /**
   * w(t) of Eq. 4, the weight of a masked token's cross-entropy. `rate` is the actual mask rate of its block: u(t), or
   * u_blk of section 3.3 after the clip.
   */
  weight(t: number, rate: number): number;
  /**
   * Whether a block's rate is clipped from below so that at least one masked token is expected, see {@link clipRate}.
   */
  readonly clip: boolean;
  /** Whether one uniformly chosen token is masked in a block that the draw left clean. */
  readonly fallback: boolean;
}

/** Options of most schedules; true selects the rule of section 3.3. */
export interface BlockRules {
  clip?: boolean;
  fallback?: boolean;
}

/**
 * The block-wise clip of section 3.3: u_blk = min(1, max(u, 1 / size)), so that E[masked] = size * u_blk >= 1.
 *
 * @param size number of maskable tokens of the block: B, or fewer if a sequence or an answer ends inside the block
 */
export function clipRate(u: number, size: number): number {
  return Math.min(1, Math.max(u, 1 / size));
}

/**
 * The linear schedule of Eq. 4, u(t) = t with w(t) = 1 / u; blocks may stay clean.
 *
 * @param options.epsilon smallest rate, u(t) = epsilon + (1 - epsilon) t. It bounds the weight by 1 / epsilon; other
 *   published trainers use 1e-3. Default 0.
 */
export function linearNoise(options: BlockRules & { epsilon?: number } = {}): NoiseSchedule {
  const { epsilon = 0, clip = false, fallback = false } = options;
  if (!(epsilon >= 0 && epsilon < 1)) {
    throw new DiffusionError("DIFFUSION_NOISE", `linear: epsilon must be in [0, 1), got ${epsilon}`);
  }
  return {
    name: "linear",
    u: (t) => epsilon + (1 - epsilon) * t,
    weight: (_t, rate) => (1 - epsilon) / rate,
    clip,
    fallback,
  };
}

/**
 * The block-wise clipped schedule of section 3.3 (the remedy for Eq. 11): linear, with u_blk = min(1, max(u, 1/B)), one
 * forced mask in clean blocks, and w = 1 / u_blk <= B. The forced mask makes the weighted loss a slightly biased bound,
 * so measure likelihood with {@link linearNoise}.
 */
export function clippedLinear(rules: BlockRules = {}): NoiseSchedule {
  return { ...linearNoise({ clip: true, fallback: true, ...rules }), name: "clipped-linear" };
}

/** The cosine schedule u(t) = 1 - cos(pi t / 2), with w = u'(t) / u: masks fewer tokens than linear at the same t. */
export function cosineNoise(rules: BlockRules = {}): NoiseSchedule {
  return customNoise("cosine", (t) => 1 - Math.cos((Math.PI / 2) * t), {
    slope: (t) => (Math.PI / 2) * Math.sin((Math.PI / 2) * t),
    ...rules,
  });
}

/** Weight of a {@link customNoise}: give the slope, the weight, or neither. */
export interface CustomNoiseOptions extends BlockRules {
  /** u'(t); default: a central difference of `u`. The weight is then u'(t) / rate. */
  slope?: (t: number) => number;
  /** The weight, for a loss that is intentionally not a bound. */
  weight?: (t: number, rate: number) => number;
}

/**
 * A schedule from a custom u(t), which must be in [0, 1] and non-decreasing. The weight is u'(t) / rate, so that the
 * loss is the ELBO of masked diffusion if clip and fallback are off (the default here).
 *
 * @throws DiffusionError DIFFUSION_NOISE if u leaves [0, 1] or decreases, checked at 257 points
 */
export function customNoise(name: string, u: (t: number) => number, options: CustomNoiseOptions = {}): NoiseSchedule {
  checkRates(name, u);
  const slope = options.slope ?? ((t: number) => centralDifference(u, t));
  return {
    name,
    u,
    weight: options.weight ?? ((t, rate) => slope(t) / rate),
    clip: options.clip ?? false,
    fallback: options.fallback ?? false,
  };
}

function centralDifference(u: (t: number) => number, t: number): number {
  const step = 1e-5;
  const from = Math.max(0, t - step);
  const to = Math.min(1, t + step);
  return (u(to) - u(from)) / (to - from);
}

function checkRates(name: string, u: (t: number) => number): void {
  let previous = 0;
  for (let i = 0; i <= 256; i++) {
    const t = i / 256;
    const rate = u(t);
    if (!(rate >= -1e-12 && rate <= 1 + 1e-12)) {
      throw new DiffusionError("DIFFUSION_NOISE", `${name}: u(${t}) = ${rate} is not a probability`);
    }
    if (rate < previous - 1e-12) {
      throw new DiffusionError("DIFFUSION_NOISE", `${name}: u must not decrease, but u(${t}) = ${rate} < ${previous}`);
    }
    previous = rate;
  }
}

const rules = { clip: z.boolean().optional(), fallback: z.boolean().optional() };

/** A built-in schedule in a YAML or JSON file: its name, or its name with options. */
export const noiseConfigSchema = z.union([
  z.enum(["linear", "clipped-linear", "cosine"]),
  z.discriminatedUnion("name", [
    z.strictObject({ name: z.literal("linear"), epsilon: z.number().min(0).lt(1).optional(), ...rules }),
    z.strictObject({ name: z.literal("clipped-linear"), ...rules }),
    z.strictObject({ name: z.literal("cosine"), ...rules }),
  ]),
]);
export type NoiseConfig = z.infer<typeof noiseConfigSchema>;

/** Makes the schedule of a {@link NoiseConfig}. */
export function noiseFromConfig(config: NoiseConfig): NoiseSchedule {
  const { name, ...options } = typeof config === "string" ? { name: config } : config;
  return { linear: linearNoise, "clipped-linear": clippedLinear, cosine: cosineNoise }[name](options);
}

/** Whether a value has the shape of a {@link NoiseSchedule}. */
export function isNoiseSchedule(value: unknown): value is NoiseSchedule {
  const it = value as Partial<NoiseSchedule> | null;
  return typeof it === "object" && typeof it?.u === "function" && typeof it.weight === "function";
}

/** A schedule in options: a {@link NoiseSchedule}, or a {@link NoiseConfig}, which is converted to one. */
export const noiseSchema = z.union(
  [z.custom<NoiseSchedule>(isNoiseSchedule), noiseConfigSchema.transform(noiseFromConfig)],
  {
    error:
      "expected a noise schedule, linear, clipped-linear or cosine, or one of these with options: " +
      "{ name, clip?, fallback?, epsilon? (linear) }",
  },
);
