import * as z from "zod";
import { type CommitRule, commitConfigSchema } from "../diffusion/commit.js";

const tokenId = z.number().int().min(0);

/**
 * Which masked tokens a denoising pass commits. c is the probability of the token chosen at a position.
 * - static: `steps` passes per block, each its share, surest first (the published sampler)
 * - threshold: every c above `value`, at least one
 * - hybrid: the static share or the threshold, whichever commits more
 * - factor: the n surest, n the largest with (n + 1)(1 - c_n) < factor, at least one (Fast-dLLM)
 * - entropy: positions by rising entropy while the sum of entropies, less the largest of them, stays within `bound`
 *   nats, at least one (entropy-bounded unmasking)
 */
export const commitSchema = commitConfigSchema;
export type CommitOptions = z.output<typeof commitSchema>;

/** A rule as data, or one of {@link CommitRule}'s that is also data: functions do not cross to the engine's thread. */
const commitOption = z
  .union([
    commitSchema,
    z.custom<CommitRule>((value) => typeof (value as Partial<CommitRule> | null)?.choose === "function"),
  ])
  .transform((rule, context) => {
    if ("rule" in rule) return rule;
    if (rule.config) return rule.config;
    const message = `a rule of your own ('${rule.name}') is not data, so it cannot cross to the engine's thread: generateBlocks() takes it`;
    context.addIssue({ code: "custom", message });
    return z.NEVER;
  });

export const remaskSchema = z.strictObject({
  below: z.number().min(0).max(1).describe("mask a committed token again when its probability falls below this"),
  rounds: z.number().int().min(1).max(64).default(1).describe("passes of a block that may mask again"),
});

/** A signed integer of 64 bits: a number where it is a safe one, else a bigint. */
const seedSchema = z.union([
  z.number().int(),
  z
    .bigint()
    .min(-(2n ** 63n))
    .max(2n ** 63n - 1n),
]);

/** Options of one request: {@link Engine.generate}. */
export const generateOptionsSchema = z.strictObject({
  mode: z.enum(["diffusion", "autoregressive"]).default("diffusion").describe("block by block, or token by token"),
  maxTokens: z.number().int().min(1).default(128).describe("tokens to generate, exactly, unless a stop comes first"),
  temperature: z.number().min(0).max(100).default(0).describe("0: the most likely token"),
  topP: z
    .number()
    .min(0)
    .max(1)
    .default(1)
    .describe("only the likeliest tokens of this joint probability; 0: the likeliest, 1: all"),
  topK: z.number().int().min(0).default(0).describe("0: all"),
  minP: z.number().min(0).max(1).default(0).describe("only tokens at least this times as likely as the likeliest"),
  seed: seedSchema.optional().describe("64 bits, signed; by default a random one"),
  presencePenalty: z.number().min(-2).max(2).default(0).describe("taken off the logits of tokens in the output, once"),
  frequencyPenalty: z.number().min(-2).max(2).default(0).describe("taken off for each time they occur there"),
  repetitionPenalty: z.number().gt(0).max(10).default(1).describe("over prompt and output; 1: none"),
  logitBias: z
    .record(z.string().regex(/^\d+$/), z.number().min(-100).max(100))
    .default({})
    .describe("by token id; -100 forbids"),
  stop: z.array(z.string().min(1).max(1024)).max(64).default([]).describe("strings that end the text, not part of it"),
  stopTokenIds: z.array(tokenId).max(1024).optional().describe("by default the model's end tokens"),
  ignoreEos: z.boolean().default(false).describe("the model's end tokens end nothing; stopTokenIds and stop still do"),
  n: z.number().int().min(1).max(128).default(1).describe("choices; choice i draws with seed + i"),
  logprobs: z.number().int().min(0).max(20).default(0).describe("how many of the likeliest tokens with each token"),
  blockSize: z.number().int().min(1).max(1024).optional().describe("by default the engine's"),
  steps: z.number().int().min(1).optional().describe("short for commit: { rule: static, steps }"),
  commit: commitOption.optional().describe("by default static, one token a pass"),
  remask: remaskSchema.optional().describe("mask unsure tokens again; default: never"),
  suffix: z
    .union([z.string(), z.array(tokenId)])
    .optional()
    .describe("what follows: infilling by the tokenizer's fill-in-the-middle tokens"),
  canvas: z
    .enum(["growing", "fixed"])
    .default("growing")
    .describe("growing: block after block until a stop; fixed: exactly maxTokens, end tokens are never chosen"),
  edit: z
    .strictObject({ start: z.number().int().min(0), end: z.number().int().min(1) })
    .optional()
    .describe("generate the prompt's tokens start .. end anew in place, what follows in the same block is seen"),
  events: z.enum(["all", "text"]).default("all").describe("text: no denoise events, which cost a message each"),
  cacheSalt: z
    .string()
    .min(1)
    .max(256)
    .optional()
    .describe("the prefix cache is shared with requests of the same salt only; by default with those without one"),
  priority: z.number().int().min(-1000).max(1000).default(0).describe("higher leaves the queue first"),
});
/** What users write. */
export type GenerateOptions = z.input<typeof generateOptionsSchema>;
/** Checked, nothing left open but what the engine or the model decides. */
export type GenerateSettings = z.output<typeof generateOptionsSchema>;

/** Options of {@link Engine.score}. */
export const scoreOptionsSchema = z.strictObject({
  mode: z
    .enum(["autoregressive", "diffusion"])
    .default("autoregressive")
    .describe("log-likelihood token by token, or the diffusion bound"),
  blockSize: z.number().int().min(1).max(1024).optional().describe("of the bound; default: the engine's"),
  logprobs: z.number().int().min(0).max(20).default(0).describe("how many of the likeliest tokens with each token"),
  mcSamples: z
    .number()
    .int()
    .min(2)
    .max(1024)
    .optional()
    .describe("random masks of the bound; by default every mask up to block size 4, then 16"),
  seed: seedSchema.default(0).describe("of the random masks"),
});
export type ScoreOptions = z.input<typeof scoreOptionsSchema>;
export type ScoreSettings = z.output<typeof scoreOptionsSchema>;

/** Up to a week: timers count milliseconds in 32 bits. */
const seconds = z
  .number()
  .min(0)
  .max(86_400 * 7);

/** What a request reserves: {@link Engine.reserve}. */
export const requestSizeSchema = z.strictObject({
  choices: z.number().int().min(1).describe("prompts times n"),
  promptTokens: z.number().int().min(0).describe("summed over the choices"),
  maxTokens: z.number().int().min(0).default(0).describe("tokens that may be generated, summed over the choices"),
});
export type ReserveOptions = z.input<typeof requestSizeSchema>;

/** Options of the engine besides the model. */
export const engineOptionsSchema = z
  .strictObject({
    worker: z
      .enum(["thread", "process", "none"])
      .optional()
      .describe("where the model runs: in a thread, a child process, which can crash alone, or the caller's thread"),
    device: z.string().default("cpu").describe("cpu, cuda, cuda:1"),
    dtype: z
      .enum(["auto", "float32", "bfloat16", "float16", "float64"])
      .default("auto")
      .describe("of the weights; auto: as saved"),
    quantization: z
      .enum(["int8"])
      .optional()
      .describe("int8: weights and activations of matrices in int8 (W8A8), on the CPU"),
    blockSize: z.number().int().min(1).max(1024).default(4).describe("of requests that name none; as trained"),
    shift: z.boolean().default(false).describe("whether the model was trained with the logit shift"),
    maskId: tokenId.optional().describe("by default the model's"),
    fimFormat: z.enum(["spm", "psm"]).default("spm").describe("order of fill-in-the-middle: suffix first (Seed-Coder)"),
    maxModelLen: z.number().int().min(1).optional().describe("of prompt and output; by default the model's context"),
    cacheTokens: z.number().int().min(1).optional().describe("key/value memory in tokens; by default 8 contexts"),
    cacheBytes: z.number().min(1).optional().describe("key/value memory in bytes, instead of cacheTokens"),
    pageSize: z.number().int().min(1).max(1024).default(32).describe("tokens of a page; a multiple of block sizes"),
    prefixCache: z.boolean().default(true).describe("keep keys and values of prompts for later ones that begin alike"),
    maxNumSeqs: z.number().int().min(1).default(64).describe("choices in one batch"),
    maxNumBatchedTokens: z
      .number()
      .int()
      .min(1)
      .default(512)
      .describe("tokens of one pass; decoding goes before prefill"),
    maxQueue: z.number().int().min(1).default(1024).describe("choices that may wait; more are refused"),
    maxQueueTokens: z.number().int().min(1).default(1_000_000).describe("prompt tokens that may wait"),
    queueTimeout: seconds.default(0).describe("seconds a request may wait; 0: for ever"),
    requestTimeout: seconds.default(0).describe("seconds a request may take; 0: for ever"),
    eventInterval: z
      .number()
      .min(0)
      .max(1000)
      .default(10)
      .describe("ms that events of short passes may wait for each other on their way from the thread; 0: not at all"),
    hangTimeout: z
      .number()
      .min(0)
      .default(10)
      .describe("seconds without a sign of life after which a child process is started again; 0: never"),
    passTimeout: z
      .number()
      .min(0)
      .default(600)
      .describe("seconds in one pass of the model after which a child process is started again; 0: never"),
    cudaGraphs: z.boolean().default(true).describe("decode by CUDA graphs, on CUDA"),
    threads: z.number().int().min(1).optional().describe("processor threads of the model's operators"),
  })
  .refine(({ cacheTokens, cacheBytes }) => cacheTokens === undefined || cacheBytes === undefined, {
    path: ["cacheBytes"],
    error: "cacheTokens and cacheBytes exclude each other",
  });
export type EngineOptions = z.input<typeof engineOptionsSchema>;
export type EngineSettings = z.output<typeof engineOptionsSchema>;
