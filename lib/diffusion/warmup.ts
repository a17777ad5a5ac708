import * as z from "zod";
import { DiffusionError, parseOptions } from "./errors.js";

const holdSchema = z.strictObject({
  multiple: z
    .number()
    .positive()
    .describe("pause the ramp while the gradient norm is above this multiple of the reference"),
  reference: z
    .number()
    .positive()
    .optional()
    .describe("reference gradient norm; default: the last one before this stage"),
  limit: z
    .number()
    .int()
    .min(0)
    .optional()
    .describe("maximum number of steps for which the ramp pauses in total; default: 2 * steps"),
});

/** The options of {@link maskRatioWarmup} and their defaults, for TypeScript and YAML alike. */
export const warmupSchema = z.strictObject({
  steps: z.number().int().min(0).describe("number of steps until u_max is 1 (S_warmup)"),
  initial: z.number().gt(0).max(1).default(1e-3).describe("maximum mask ratio at step 0 (u_init)"),
  weighted: z.boolean().default(false).describe("keep the weight w(t) during the warmup; Eq. 10 drops it"),
  clip: z.boolean().default(false).describe("keep the 1/B clip during the warmup"),
  fallback: z.boolean().default(false).describe("keep the forced token during the warmup"),
  hold: holdSchema
    .optional()
    .describe(
      "`{ multiple, reference?, limit? }`: pause the ramp after a step whose gradient norm is above `multiple` times " +
        "`reference` (default: the last norm before this stage), for at most `limit` steps in total (default: 2 * `steps`)",
    ),
});

/** A warmup as a plain value, every switch set. */
export type MaskRatioWarmup = z.output<typeof warmupSchema>;
/** What {@link maskRatioWarmup} takes. */
export type MaskRatioWarmupOptions = z.input<typeof warmupSchema>;

/**
 * The mask-ratio warmup of section 3.2 (Eq. 10): t ~ U(0, u_max(s)) while u_max rises from `initial` to 1 over
 * `steps`, with the weight w(t) dropped until then. The 1/B clip and the forced token wait too: that is what fits the
 * paper's Fig. 4, the text does not say. Each is a switch.
 *
 * `hold` makes the ramp adaptive, which the paper's is not: it stands still in every step after one whose gradient norm
 * was above `multiple` times the AR level.
 */
export function maskRatioWarmup(options: MaskRatioWarmupOptions): MaskRatioWarmup {
  return parseOptions("maskRatioWarmup", warmupSchema, options, "DIFFUSION_WARMUP");
}

/** Eq. 10: u_max(s) = u_init + (1 - u_init) * s / S_warmup for s = 0 .. S_warmup, and 1 from there on. */
export function maxMaskRatio(warmup: Pick<MaskRatioWarmup, "steps" | "initial">, s: number): number {
  if (s >= warmup.steps) return 1;
  return warmup.initial + (1 - warmup.initial) * (s / warmup.steps);
}

/** State of a ramp. JSON, so that a run can resume from it. */
export interface WarmupState {
  /** The optimiser step this state was last moved in. */
  step: number;
  /** s of Eq. 10: steps in which the ramp did not wait. */
  progress: number;
  /** Steps in which it did. */
  held: number;
  /** The gradient norm of the AR stage that `hold` compares with. */
  reference: number | null;
}

/** What the step at hand needs of the optimiser's recent past. */
export interface WarmupContext {
  /** Optimiser step within the stage, from 0. */
  step: number;
  /** Global gradient norm of the step before, the last AR step's at step 0. */
  gradNorm?: number;
}

/**
 * Moves a ramp to `context.step` and returns its new state; the old one is left alone. Called again in the same step
 * (once per micro-batch) it changes nothing. All ranks see the same gradient norm, so all move alike.
 *
 * @param state undefined at the first step of the stage
 * @throws DiffusionError DIFFUSION_WARMUP when `hold` has no reference to compare with
 */
export function advanceWarmup(
  warmup: MaskRatioWarmup,
  state: WarmupState | undefined,
  context: WarmupContext,
): WarmupState {
  const { hold } = warmup;
  if (!hold) return { step: context.step, progress: context.step, held: 0, reference: null };
  if (!state) {
    const reference = hold.reference ?? context.gradNorm;
    if (reference === undefined || !(reference > 0)) {
      throw new DiffusionError(
        "DIFFUSION_WARMUP",
        "warmup.hold.reference is missing: no AR stage came before whose gradient norm could stand in for it",
      );
    }
    return { step: context.step, progress: context.step, held: 0, reference };
  }
  if (context.step <= state.step) return state;
  // A gradient norm that is not a number is the very instability the ramp waits for.
  const calm = context.gradNorm === undefined || context.gradNorm <= hold.multiple * (state.reference ?? 0);
  const waits = !calm && state.progress < warmup.steps && state.held < (hold.limit ?? 2 * warmup.steps);
  return {
    ...state,
    step: context.step,
    progress: state.progress + (waits ? 0 : 1),
    held: state.held + (waits ? 1 : 0),
  };
}
