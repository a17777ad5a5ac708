import type * as z from "zod";
import {
  type BidirectionalOptions,
  type BlockDiffusionOptions,
  bidirectionalObjective,
  bidirectionalSchema,
  blockDiffusionObjective,
  blockDiffusionSchema,
  type CausalDiffusionOptions,
  causalDiffusionObjective,
  causalDiffusionSchema,
  type NoiseSchedule,
  supervisedObjective,
} from "../diffusion/index.js";
import { warmupStable } from "../nn/index.js";
import { parseOptions } from "./errors.js";
import {
  assemble,
  type ObjectiveStageOptions,
  type ParsedStage,
  pick,
  type Stage,
  stageSettings,
  stageValues,
  titleOf,
  unheededBoundaries,
  withEnd,
} from "./stage.js";

export type BlockDiffusionStageOptions = ObjectiveStageOptions & BlockDiffusionOptions;
export type BidirectionalStageOptions = ObjectiveStageOptions & BidirectionalOptions;
export type CausalDiffusionStageOptions = ObjectiveStageOptions & CausalDiffusionOptions;

const blockDiffusionStageSchema = stageSchemaOf(blockDiffusionSchema.shape);
const bidirectionalStageSchema = stageSchemaOf(bidirectionalSchema.shape);
const causalDiffusionStageSchema = stageSchemaOf(causalDiffusionSchema.shape);

function stageSchemaOf<Shape extends z.ZodRawShape>(shape: Shape) {
  return withEnd({ ...stageSettings, ...stageValues, ...shape });
}

/** Masked diffusion over blocks: continual pre-training (section 3), anneal included. */
export function blockDiffusion(options: BlockDiffusionStageOptions): Stage {
  const parsed = parseOptions(titleOf("blockDiffusion", options), blockDiffusionStageSchema, options);
  const own = pick(parsed, blockDiffusionSchema.shape) as BlockDiffusionOptions;
  const made = { kind: "block-diffusion", objective: blockDiffusionObjective(own), positionsPerToken: 2 };
  return denoising(options, own, { ...parsed, ...made });
}

/**
 * Masked diffusion over whole documents with full bidirectional attention: the BiDLLM of section 2, LLaDA and Dream.
 */
export function bidirectional(options: BidirectionalStageOptions): Stage {
  const parsed = parseOptions(titleOf("bidirectional", options), bidirectionalStageSchema, options);
  const own = pick(parsed, bidirectionalSchema.shape) as BidirectionalOptions;
  const made = { kind: "bidirectional", objective: bidirectionalObjective(own), positionsPerToken: 1 };
  return denoising(options, own, { ...parsed, ...made });
}

/** Masked diffusion with causal attention: the ARDLLM of section 2. */
export function causalDiffusion(options: CausalDiffusionStageOptions): Stage {
  const parsed = parseOptions(titleOf("causalDiffusion", options), causalDiffusionStageSchema, options);
  const own = pick(parsed, causalDiffusionSchema.shape) as CausalDiffusionOptions;
  const made = { kind: "causal-diffusion", objective: causalDiffusionObjective(own), positionsPerToken: 1 };
  return denoising(options, own, { ...parsed, ...made });
}

/**
 * Supervised fine-tuning by block diffusion, with a loss on answers only. The default `lr` is 2e-5 after a short
 * warmup, not the final rate of the previous stage, because pre-training usually decays to zero.
 */
export function supervised(options: BlockDiffusionStageOptions): Stage {
  const parsed = parseOptions(titleOf("supervised", options), blockDiffusionStageSchema, options);
  const own = pick(parsed, blockDiffusionSchema.shape) as BlockDiffusionOptions;
  const lr = parsed.lr ?? warmupStable(2e-5, { warmup: 0.03 });
  const made = { kind: "supervised", objective: supervisedObjective(own), positionsPerToken: 2 };
  return denoising(options, own, { ...parsed, lr, ...made });
}

type DenoisingOptions = BlockDiffusionOptions | BidirectionalOptions;

/** @param own the objective's options, parsed */
function denoising(
  options: Parameters<typeof unheededBoundaries>[0],
  own: DenoisingOptions,
  parsed: Omit<ParsedStage, "fingerprint" | "check">,
): Stage {
  return assemble({
    ...parsed,
    fingerprint: fingerprintOf(own),
    check: (steps, dataset) => [...longWarmup(own, steps), ...unheededBoundaries(options, dataset)],
  });
}

function longWarmup({ warmup }: DenoisingOptions, steps: number | null): string[] {
  if (steps === null || !warmup || warmup.steps <= steps) return [];
  const end = warmup.steps.toLocaleString("en-US");
  return [`its mask-ratio warmup takes ${end} steps, but the stage has ${steps}: u_max never reaches 1`];
}

/** A noise schedule consists of functions; some of its values represent it. */
function fingerprintOf(options: DenoisingOptions): unknown {
  const { name, clip, fallback, u, weight } = options.noise as NoiseSchedule;
  const values = [0.25, 0.5, 0.75].flatMap((t) => [u(t), weight(t, u(t))]);
  return { ...options, noise: { name, clip, fallback, values } };
}
