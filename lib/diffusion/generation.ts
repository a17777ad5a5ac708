import * as z from "zod";
import type { DecoderConfig } from "../model/config.js";
import { type CommitRule, commitConfigSchema, commitFromConfig, staticSchedule } from "./commit.js";
import { DiffusionError } from "./errors.js";

const samplingFields = {
  maxTokens: z.number().int().min(1).describe("tokens to generate, exactly, unless a stop token comes first"),
  temperature: z.number().min(0).default(0).describe("0: the most likely token"),
  topK: z.number().int().min(0).default(0).describe("sample among the k most likely tokens; 0: all"),
  topP: z
    .number()
    .min(0)
    .max(1)
    .default(1)
    .describe("sample among the likeliest tokens of this joint probability; 0: the most likely"),
  minP: z
    .number()
    .min(0)
    .max(1)
    .default(0)
    .describe("sample among tokens at least this times as likely as the likeliest"),
  seed: z.number().int().default(0).describe("of the sampling"),
  stopTokenIds: z.array(z.number().int().min(0)).optional().describe("by default the model's end tokens"),
  cache: z.boolean().default(true).describe("false: whole forwards, for reference"),
  prefillChunk: z.number().int().min(1).default(512).describe("prompt tokens in one forward"),
  signal: z.instanceof(AbortSignal).optional().describe("ends the generation"),
};

/** The options of {@link generateAutoregressive}. */
export const autoregressiveGenerationSchema = z.strictObject(samplingFields);
export type AutoregressiveGenerationOptions = z.input<typeof autoregressiveGenerationSchema>;

/** The options of {@link generateBlocks}. */
export const blockGenerationSchema = z.strictObject({
  ...samplingFields,
  blockSize: z.number().int().min(1).default(4).describe("B, as trained"),
  commit: z
    .union(
      [
        z.custom<CommitRule>((value) => typeof (value as CommitRule | null)?.choose === "function"),
        commitConfigSchema.transform(commitFromConfig),
      ],
      { error: "expected { rule: static | threshold | hybrid | factor | entropy, ... }, or a commit rule" },
    )
    .default(() => staticSchedule())
    .describe("which tokens a pass commits; by default the surest one"),
  shift: z.boolean().default(false).describe("whether the model was trained with the shift"),
  maskId: z.number().int().min(0).optional().describe("by default the model's"),
  fusedStore: z.boolean().default(true).describe("store a finished block in the next one's first pass"),
});
export type BlockGenerationOptions = z.input<typeof blockGenerationSchema>;

/** One denoising pass of one block. Positions are absolute: the prompt's first token is at 0. */
export interface SamplerDenoiseEvent {
  type: "denoise";
  /** Number of the generated block, from 0, and of the pass within it. */
  block: number;
  step: number;
  /** The block's first position and the one after its last. The first block may begin with the prompt's remainder. */
  start: number;
  end: number;
  /** Everything generated up to `end`, without the prompt; tokens not yet committed are the mask token. */
  canvas: Int32Array;
  /** Positions this pass committed. */
  committed: number[];
  /** Per position of the block: the probability of its token when committed, so far of the best one; 1 in the prompt. */
  confidence: Float64Array;
  /** Forward passes so far, prefill included. */
  forwards: number;
}

/** A finished block, or what of it came before a stop token. */
export interface BlockEvent {
  type: "block";
  block: number;
  /** Position of the first id. */
  start: number;
  ids: number[];
  forwards: number;
}

/** One token of autoregressive decoding. */
export interface TokenEvent {
  type: "token";
  position: number;
  id: number;
  confidence: number;
  forwards: number;
}

/** The end; always the last event. */
export interface SamplerDoneEvent {
  type: "done";
  /** All generated tokens, without the stop token. After an abort: those before the first one not committed. */
  ids: number[];
  finishReason: "stop" | "length" | "abort";
  /** The token that ended it. */
  stopId?: number;
  forwards: number;
}

export type BlockGenerationEvent = SamplerDenoiseEvent | BlockEvent | SamplerDoneEvent;
export type AutoregressiveGenerationEvent = TokenEvent | SamplerDoneEvent;

/**
 * The prompt with room for the output behind it, [prompt + maxTokens], filled with `fill`.
 *
 * @throws DiffusionError DIFFUSION_PROMPT for ids outside the vocabulary, or more tokens than the model has positions
 */
export function layOutSequence(
  config: Pick<DecoderConfig, "vocabSize" | "maxPositionEmbeddings">,
  prompt: ArrayLike<number>,
  maxTokens: number,
  fill: number,
): Int32Array {
  const total = prompt.length + maxTokens;
  if (total > config.maxPositionEmbeddings) {
    throw new DiffusionError(
      "DIFFUSION_PROMPT",
      `${prompt.length} prompt tokens and ${maxTokens} more exceed the model's context of ${config.maxPositionEmbeddings}`,
    );
  }
  for (let i = 0; i < prompt.length; i++) {
    if (!Number.isInteger(prompt[i]) || prompt[i] < 0 || prompt[i] >= config.vocabSize) {
      throw new DiffusionError(
        "DIFFUSION_PROMPT",
        `prompt token ${i} is ${prompt[i]}, the vocabulary ${config.vocabSize}`,
      );
    }
  }
  const sequence = new Int32Array(total).fill(fill);
  sequence.set(Array.from(prompt));
  return sequence;
}
