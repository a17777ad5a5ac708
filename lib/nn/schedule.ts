import * as z from "zod";
import { checkOptions } from "../torch/options.js";
import { NnError } from "./errors.js";

/** Arguments of a schedule besides the step. */
export interface ScheduleContext {
  /** Optimizer steps of the whole stage. */
  steps: number;
  /** The final learning rate of the previous stage; undefined in the first stage. */
  previous?: number;
}

/**
 * A learning-rate schedule: returns the learning rate of optimizer step `step` (from 0) of a stage. Any such function
 * works; it must be pure, because a resumed run calls it again.
 */
export interface Schedule {
  (step: number, context: ScheduleContext): number;
  /** Returns problems of the schedule in a stage of `steps` steps. */
  check?(steps: number): ScheduleProblem;
}

/** `error`: the rate would jump; `warning`: a part of the schedule is never reached. */
export interface ScheduleProblem {
  error?: string;
  warning?: string;
}

/** Shape of a decay: linear, half a cosine, or 1 - sqrt (fast at first). */
export type DecayShape = "linear" | "cosine" | "sqrt";

/** A number of steps, or below 1 a share of the stage's steps. */
export type Duration = number;

/** Resolves a {@link Duration} to whole steps. */
export function durationSteps(duration: Duration, steps: number): number {
  return duration < 1 ? Math.round(duration * steps) : duration;
}

/** The factor of a decay at `progress` in [0, 1]: from 1 at 0 to 0 at 1. */
export function decayShare(shape: DecayShape, progress: number): number {
  const p = Math.min(1, Math.max(0, progress));
  if (shape === "linear") return 1 - p;
  if (shape === "cosine") return 0.5 * (1 + Math.cos(Math.PI * p));
  return 1 - Math.sqrt(p);
}

// The first step has a rate above zero, and step `warmup - 1` has the full rate.
function warmupShare(step: number, warmup: number): number {
  return step < warmup ? (step + 1) / warmup : 1;
}

function checkDuration(name: string, duration: Duration): void {
  if (!(duration >= 0) || !Number.isFinite(duration) || (duration >= 1 && !Number.isInteger(duration))) {
    throw new NnError("NN_SCHEDULE", `${name} must be a whole number of steps or a share below 1, got ${duration}`);
  }
}

function checkRate(name: string, lr: number): void {
  if (!(lr >= 0) || !Number.isFinite(lr)) throw new NnError("NN_SCHEDULE", `${name} must not be negative, got ${lr}`);
}

/** A constant rate; default: the final rate of the previous stage. */
export function constant(lr?: number): Schedule {
  if (lr !== undefined) checkRate("constant: lr", lr);
  return (_, context) => startRate("constant", lr, context);
}

/** Rises linearly over `warmup` (default 0.01 of the stage), then stays constant: the first two phases of WSD. */
export function warmupStable(lr: number, options: { warmup?: Duration } = {}): Schedule {
  options = checkOptions("warmupStable", options, ["warmup"]);
  const { warmup = 0.01 } = options;
  checkRate("warmupStable: lr", lr);
  checkDuration("warmupStable: warmup", warmup);
  const rate: Schedule = (step, { steps }) => lr * warmupShare(step, durationSteps(warmup, steps));
  return Object.assign(rate, { check: (steps: number) => checkWarmup(durationSteps(warmup, steps), steps, lr) });
}

/**
 * Decays from `from` (default: the final rate of the previous stage) to `min` over the whole stage: the last phase of
 * WSD as a separate stage. The last step is one step before `min`.
 */
export function decayTo(min: number, options: { from?: number; shape?: DecayShape } = {}): Schedule {
  options = checkOptions("decayTo", options, ["from", "shape"]);
  const { from, shape = "linear" } = options;
  checkRate("decayTo: min", min);
  if (from !== undefined) checkRate("decayTo: from", from);
  return (step, context) => {
    const start = startRate("decayTo", from, context);
    return min + (start - min) * decayShare(shape, step / Math.max(1, context.steps));
  };
}

/**
 * Warmup, stable, decay (WSD): rises over `warmup`, stays constant, decays to `min` over the last `decay` of the stage.
 */
export function warmupStableDecay(
  lr: number,
  options: { warmup?: Duration; decay?: Duration; shape?: DecayShape; min?: number } = {},
): Schedule {
  options = checkOptions("warmupStableDecay", options, ["warmup", "decay", "shape", "min"]);
  const { warmup = 0.01, decay = 0.2, shape = "linear", min = 0 } = options;
  checkRate("warmupStableDecay: lr", lr);
  checkRate("warmupStableDecay: min", min);
  checkDuration("warmupStableDecay: warmup", warmup);
  checkDuration("warmupStableDecay: decay", decay);
  const rate: Schedule = (step, { steps }) => {
    const fall = durationSteps(decay, steps);
    const start = steps - fall;
    if (step < start) return lr * warmupShare(step, durationSteps(warmup, steps));
    return min + (lr - min) * decayShare(shape, (step - start) / Math.max(1, fall));
  };
  const check = (steps: number): ScheduleProblem => {
    const [rise, fall] = [durationSteps(warmup, steps), durationSteps(decay, steps)];
    if (rise + fall > steps && rise > 0) {
      return {
        error: `warmup (${rise} steps) and decay (${fall}) are longer than the stage's ${steps}: the rate would jump`,
      };
    }
    if (fall > steps)
      return { warning: `its decay takes ${fall} steps, but the stage has ${steps}: it starts below ${lr}` };
    return decay === 1 && steps > 1 ? { warning: "decay: 1 is one step, not the whole stage; shares are below 1" } : {};
  };
  return Object.assign(rate, { check });
}

function checkWarmup(rise: number, steps: number, lr: number): ScheduleProblem {
  if (rise <= steps) return {};
  return { warning: `its warmup takes ${rise} steps, but the stage has ${steps}: the rate never reaches ${lr}` };
}

/** Rises over `warmup`, then decays to `min` along half a cosine over the rest of the stage. */
export function cosineDecay(lr: number, options: { warmup?: Duration; min?: number } = {}): Schedule {
  options = checkOptions("cosine", options, ["warmup", "min"]);
  const { warmup = 0.01, min = 0 } = options;
  checkRate("cosine: lr", lr);
  checkRate("cosine: min", min);
  checkDuration("cosine: warmup", warmup);
  const rate: Schedule = (step, { steps }) => {
    const rise = durationSteps(warmup, steps);
    if (step < rise) return lr * warmupShare(step, rise);
    return min + (lr - min) * decayShare("cosine", (step - rise) / Math.max(1, steps - rise));
  };
  return Object.assign(rate, { check: (steps: number) => checkWarmup(durationSteps(warmup, steps), steps, lr) });
}

/** A schedule multiplied by a factor. */
export function scaled(schedule: Schedule, factor: number): Schedule {
  const rate: Schedule = (step, context) => factor * schedule(step, context);
  return Object.assign(rate, { check: (steps: number) => schedule.check?.(steps) ?? {} });
}

/**
 * Runs schedules one after another within a stage: each takes its `duration` (the last one the rest) and starts from
 * the final rate of the previous one.
 */
export function chain(...parts: [schedule: Schedule, duration?: Duration][]): Schedule {
  if (parts.length === 0) throw new NnError("NN_SCHEDULE", "chain: expected at least one schedule");
  for (const [i, [, duration]] of parts.entries()) {
    if (duration !== undefined) checkDuration(`chain: duration of part ${i}`, duration);
    else if (i < parts.length - 1) throw new NnError("NN_SCHEDULE", `chain: part ${i} needs a duration`);
  }
  const rate: Schedule = (step, context) => {
    let start = 0;
    let { previous } = context;
    for (const [i, [schedule, duration]] of parts.entries()) {
      const rest = Math.max(0, context.steps - start);
      const last = i === parts.length - 1;
      const length = duration === undefined ? rest : Math.min(rest, durationSteps(duration, context.steps));
      const inside = { steps: length, previous };
      if (last || step < start + length) return schedule(step - start, inside);
      if (length > 0) previous = schedule(length - 1, inside);
      start += length;
    }
    throw new NnError("NN_SCHEDULE", "chain: unreachable");
  };
  const check = (steps: number): ScheduleProblem => {
    let start = 0;
    let first: ScheduleProblem = {};
    for (const [i, [schedule, duration]] of parts.entries()) {
      const rest = steps - start;
      if (rest <= 0) return { warning: `part ${i} of the chain starts at step ${start}, but the stage has ${steps}` };
      const length = duration === undefined ? rest : Math.min(rest, durationSteps(duration, steps));
      const { error, warning } = schedule.check?.(length) ?? {};
      if (error !== undefined) return { error: `part ${i} of the chain: ${error}` };
      if (warning !== undefined) first = { warning: `part ${i} of the chain: ${warning}`, ...first };
      start += length;
    }
    return first;
  };
  return Object.assign(rate, { check });
}

function startRate(name: string, given: number | undefined, { previous }: ScheduleContext): number {
  const start = given ?? previous;
  if (start === undefined) {
    throw new NnError("NN_SCHEDULE", `${name}: give a rate, because there is no previous stage to take it from`);
  }
  return start;
}

const rate = z.number().min(0);
const duration = z
  .number()
  .min(0)
  .refine((value) => value < 1 || Number.isInteger(value), "expected a whole number of steps or a share below 1");
const shape = z.enum(["linear", "cosine", "sqrt"]);

/** A schedule as data, for YAML: a bare number is a constant rate. */
export const scheduleSchema = z.union([
  rate,
  z.discriminatedUnion("type", [
    z.strictObject({ type: z.literal("constant"), lr: rate.optional() }),
    z.strictObject({ type: z.literal("warmup-stable"), lr: rate, warmup: duration.optional() }),
    z.strictObject({ type: z.literal("decay-to"), min: rate, from: rate.optional(), shape: shape.optional() }),
    z.strictObject({
      type: z.literal("warmup-stable-decay"),
      lr: rate,
      warmup: duration.optional(),
      decay: duration.optional(),
      shape: shape.optional(),
      min: rate.optional(),
    }),
    z.strictObject({ type: z.literal("cosine"), lr: rate, warmup: duration.optional(), min: rate.optional() }),
  ]),
]);

/** A schedule that {@link scheduleSchema} accepts. */
export type ScheduleConfig = z.infer<typeof scheduleSchema>;

/** Makes the schedule of a config. */
export function scheduleFrom(config: ScheduleConfig): Schedule {
  if (typeof config === "number") return constant(config);
  switch (config.type) {
    case "constant":
      return constant(config.lr);
    case "warmup-stable": {
      const { type: _, lr, ...options } = config;
      return warmupStable(lr, options);
    }
    case "decay-to": {
      const { type: _, min, ...options } = config;
      return decayTo(min, options);
    }
    case "warmup-stable-decay": {
      const { type: _, lr, ...options } = config;
      return warmupStableDecay(lr, options);
    }
    case "cosine": {
      const { type: _, lr, ...options } = config;
      return cosineDecay(lr, options);
    }
  }
}
