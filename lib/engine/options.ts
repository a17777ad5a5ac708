import * as z from "zod";
import { bytesSchema, deviceSchema, secondsSchema } from "../base/option-fields.js";
import { type CommitConfig, type CommitRule, commitConfigSchema } from "../diffusion/commit.js";
import type { Reservation } from "./admission.js";

const tokenId = z.number().int().min(0);

/** Tokens of a block (B). */
const blockSizeSchema = z.number().int().min(1).max(1024);

/** A commit rule, or its data. A rule that has data is kept as data, which can be sent to the engine's worker. */
const commitOption = z
  .union([
    commitConfigSchema,
    z.custom<CommitRule>((value) => typeof (value as Partial<CommitRule> | null)?.choose === "function"),
  ])
  .transform((rule): CommitConfig | CommitRule => ("rule" in rule ? rule : (rule.config ?? rule)));

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
  mode: z
    .enum(["diffusion", "autoregressive"])
    .default("diffusion")
    .describe("decode block by block (diffusion), or token by token with the same weights (autoregressive)"),
  maxTokens: z
    .number()
    .int()
    .min(1)
    .default(128)
    .describe("number of tokens to generate, exact also inside a block, unless a stop comes first"),
  temperature: z.number().min(0).max(100).default(0).describe("sampling temperature; 0: always the most likely token"),
  topP: z
    .number()
    .min(0)
    .max(1)
    .default(1)
    .describe("sample from the most likely tokens with this joint probability; 0: the most likely token, 1: all"),
  topK: z.number().int().min(0).default(0).describe("sample from the k most likely tokens; 0: all"),
  minP: z
    .number()
    .min(0)
    .max(1)
    .default(0)
    .describe("sample from the tokens that are at least this fraction as likely as the most likely one"),
  seed: seedSchema
    .optional()
    .describe("random seed, a signed 64-bit integer; a draw depends on (seed, position, pass) alone; default: random"),
  presencePenalty: z
    .number()
    .min(-2)
    .max(2)
    .default(0)
    .describe("subtracted from the logit of every token that is in the output"),
  frequencyPenalty: z
    .number()
    .min(-2)
    .max(2)
    .default(0)
    .describe("subtracted from a token's logit once for each time it is in the output"),
  repetitionPenalty: z
    .number()
    .gt(0)
    .max(10)
    .default(1)
    .describe("divides positive and multiplies negative logits of tokens in the prompt and the output; 1: none"),
  logitBias: z
    .record(z.string().regex(/^\d+$/), z.number().min(-100).max(100))
    .default({})
    .describe("added to logits, by token id; -100 forbids a token"),
  stop: z
    .array(z.string().min(1).max(1024))
    .max(64)
    .default([])
    .describe("strings that end the text and are not part of it; the first to be complete counts"),
  stopTokenIds: z
    .array(tokenId)
    .max(1024)
    .optional()
    .describe("tokens that end the text; default: the model's end tokens"),
  ignoreEos: z
    .boolean()
    .default(false)
    .describe("ignore the model's end tokens, unless `stopTokenIds` lists them; `stop` still applies"),
  n: z.number().int().min(1).max(128).default(1).describe("number of choices; choice i samples with seed + i"),
  logprobs: z
    .number()
    .int()
    .min(0)
    .max(20)
    .default(0)
    .describe("number of most likely tokens to report with each token"),
  blockSize: blockSizeSchema.optional().describe("tokens that are denoised together (B); default: the engine's"),
  steps: z.number().int().min(1).optional().describe('short for `commit: { rule: "static", steps }`'),
  commit: commitOption
    .optional()
    .describe(
      'which tokens a pass commits: `{ rule: "static", steps? }`, `{ rule: "threshold", value }`, ' +
        '`{ rule: "hybrid", value, steps? }`, `{ rule: "factor", factor }` or `{ rule: "entropy", bound }`, or a rule ' +
        "such as `confidenceThreshold(0.9)`; default: static, one token per pass",
    ),
  remask: remaskSchema
    .optional()
    .describe(
      "`{ below, rounds }`: mask a committed token again when its probability falls below this value, in at most this " +
        "many passes of a block; default: never",
    ),
  suffix: z
    .union([z.string(), z.array(tokenId)])
    .optional()
    .describe("text after the generated part: infilling with the tokenizer's fill-in-the-middle tokens"),
  canvas: z
    .enum(["growing", "fixed"])
    .default("growing")
    .describe("growing: add blocks until a stop; fixed: exactly `maxTokens`, end tokens are never chosen"),
  edit: z
    .strictObject({ start: z.number().int().min(0), end: z.number().int().min(1) })
    .optional()
    .describe(
      "`{ start, end }`: regenerate these tokens of the prompt in place; the model sees what precedes them, and what " +
        "follows in the same block",
    ),
  events: z.enum(["all", "text"]).default("all").describe("text: no `denoise` events, each of which costs a message"),
  cacheSalt: z
    .string()
    .min(1)
    .max(256)
    .optional()
    .describe("share cached prefixes only with requests that have the same salt; default: with those that have none"),
  priority: z
    .number()
    .int()
    .min(-1000)
    .max(1000)
    .default(0)
    .describe("higher: leaves the queue earlier and keeps its memory longer"),
});
/** What users write. */
export type GenerateOptions = z.input<typeof generateOptionsSchema>;
/** Checked, nothing left open but what the engine or the model decides. */
export type GenerateSettings = z.output<typeof generateOptionsSchema>;

/** The commit rule as plain values, for commands: a number of passes or a threshold. */
export const commitFields = {
  steps: generateOptionsSchema.shape.steps.describe("denoising passes per block; default: one token per pass"),
  threshold: z
    .number()
    .min(0)
    .max(1)
    .optional()
    .describe("instead of `steps`: commit every token with a higher probability, at least one per pass"),
};

/** What goes with a request but is not about its text. */
export interface RequestOptions {
  /** Ends the request. */
  signal?: AbortSignal;
  /** The place that `Engine.reserve` gave; without one the request is admitted by itself. */
  reservation?: Reservation;
}

/** What goes with a score. */
export interface ScoreRequestOptions extends RequestOptions {
  /** Called when it leaves the queue. */
  onStart?: () => void;
}

/** Options of {@link Engine.score}. */
export const scoreOptionsSchema = z.strictObject({
  mode: z
    .enum(["autoregressive", "diffusion"])
    .default("autoregressive")
    .describe("autoregressive: the exact log-likelihood, token by token; diffusion: its lower bound (Eq. 4)"),
  blockSize: blockSizeSchema.optional().describe("block size of the bound; default: the engine's"),
  logprobs: z
    .number()
    .int()
    .min(0)
    .max(20)
    .default(0)
    .describe("number of most likely tokens to report at each position"),
  mcSamples: z
    .number()
    .int()
    .min(2)
    .max(1024)
    .optional()
    .describe("random masks per block for the bound; default: every mask of blocks up to 4 tokens, 16 beyond"),
  seed: seedSchema.default(0).describe("random seed of the masks"),
});
export type ScoreOptions = z.input<typeof scoreOptionsSchema>;
export type ScoreSettings = z.output<typeof scoreOptionsSchema>;

/** What a request reserves: {@link Engine.reserve}. */
export const requestSizeSchema = z.strictObject({
  choices: z.number().int().min(1).describe("prompts times n"),
  promptTokens: z.number().int().min(0).describe("summed over the choices"),
  maxTokens: z.number().int().min(0).default(0).describe("tokens that may be generated, summed over the choices"),
});
export type ReserveOptions = z.input<typeof requestSizeSchema>;

/** Options of the engine besides the model. Each is also a flag of `diffcoder serve` and a row of the table in docs/engine.md. */
export const engineOptionsSchema = z
  .strictObject({
    worker: z
      .enum(["thread", "process", "none"])
      .optional()
      .describe(
        "where the model runs: a worker thread (the default for a folder), a child process, whose crash the caller " +
          "survives, or none, the calling thread (the default for a loaded model)",
      ),
    device: deviceSchema.default("cpu").describe('"cpu", "cuda" or "cuda:1"'),
    dtype: z
      .enum(["auto", "float32", "bfloat16", "float16", "float64"])
      .default("auto")
      .describe("data type of the weights; auto: as saved"),
    quantization: z
      .enum(["int8"])
      .optional()
      .describe("int8: weights and activations of matrices in int8 (W8A8), on the CPU; default: none"),
    blockSize: blockSizeSchema
      .default(4)
      .describe("tokens that are denoised together where a request does not say; use the value from training"),
    shift: z.boolean().default(false).describe("set if the model was trained with the logit shift"),
    maskId: tokenId.optional().describe("id of the mask token; default: the model's"),
    fimFormat: z
      .enum(["spm", "psm"])
      .default("spm")
      .describe("order of fill-in-the-middle: spm, suffix first (Seed-Coder), or psm, prefix first"),
    maxModelLen: z
      .number()
      .int()
      .min(1)
      .optional()
      .describe("maximum number of tokens of prompt and output together; default: the model's context"),
    cacheTokens: z.number().int().min(1).optional().describe("size of the KV cache in tokens; default: 8 contexts"),
    cacheBytes: bytesSchema
      .optional()
      .describe("size of the KV cache in bytes with padding, instead of the size in tokens"),
    pageSize: z
      .number()
      .int()
      .min(1)
      .max(1024)
      .default(32)
      .describe("tokens per page of the KV cache; prefixes are shared if it is a multiple of the block size"),
    prefixCache: z
      .boolean()
      .default(true)
      .describe("reuse the KV cache of earlier prompts that start with the same tokens (prefix caching)"),
    maxNumSeqs: z.number().int().min(1).default(64).describe("maximum number of sequences in one batch"),
    maxNumBatchedTokens: z
      .number()
      .int()
      .min(1)
      .default(512)
      .describe(
        "maximum number of tokens in one forward pass; decoding goes first, prefill gets the rest, at least a quarter",
      ),
    maxQueue: z
      .number()
      .int()
      .min(1)
      .default(1024)
      .describe("maximum number of sequences in the queue; more are refused"),
    maxQueueTokens: z
      .number()
      .int()
      .min(1)
      .default(1_000_000)
      .describe("maximum number of prompt tokens in the queue; more are refused"),
    queueTimeout: secondsSchema.default(0).describe("longest time that a request may wait in the queue; 0: no limit"),
    requestTimeout: secondsSchema.default(0).describe("longest time that a request may take altogether; 0: no limit"),
    eventInterval: z
      .number()
      .min(0)
      .max(1000)
      .meta({ unit: "milliseconds" })
      .default(10)
      .describe("send events of short forward passes together; maximum added latency; 0: send at once"),
    hangTimeout: z
      .number()
      .min(0)
      .meta({ unit: "seconds" })
      .default(10)
      .describe("restart a child process that gives no sign of life for this long; 0: never"),
    passTimeout: z
      .number()
      .min(0)
      .meta({ unit: "seconds" })
      .default(600)
      .describe("restart a child process whose forward pass takes longer than this; 0: never"),
    cudaGraphs: z.boolean().default(true).describe("use CUDA graphs for decoding passes, on CUDA"),
    threads: z.number().int().min(1).optional().describe("CPU threads of the model's operators"),
  })
  .refine(({ cacheTokens, cacheBytes }) => cacheTokens === undefined || cacheBytes === undefined, {
    path: ["cacheBytes"],
    error: "cacheTokens and cacheBytes cannot be combined",
  });
export type EngineOptions = z.input<typeof engineOptionsSchema>;
export type EngineSettings = z.output<typeof engineOptionsSchema>;

const engine = engineOptionsSchema.shape;

/** Options of {@link generateBlocks}: those of a request, and those of the engine that concern one model and one request. */
export const blockGenerationSchema = generateOptionsSchema
  .omit({ mode: true, cacheSalt: true, priority: true })
  .extend({
    blockSize: engine.blockSize.describe("tokens that are denoised together (B); use the value from training"),
    shift: engine.shift,
    maskId: engine.maskId,
    maxNumBatchedTokens: engine.maxNumBatchedTokens,
    signal: z.instanceof(AbortSignal).optional().describe("ends the generation; committed tokens are kept"),
  });
export type BlockGenerationOptions = z.input<typeof blockGenerationSchema>;

/** Options of {@link generateAutoregressive}: those of {@link generateBlocks} that do not concern blocks. */
export const autoregressiveGenerationSchema = blockGenerationSchema.omit({
  ...{ blockSize: true, steps: true, commit: true, remask: true, edit: true, shift: true, maskId: true },
});
export type AutoregressiveGenerationOptions = z.input<typeof autoregressiveGenerationSchema>;

/** Options of {@link generateBidirectional}: those of {@link generateBlocks}, but for the KV cache and for FIM tokens. */
export const bidirectionalGenerationSchema = blockGenerationSchema
  .omit({ maxNumBatchedTokens: true, suffix: true })
  .extend({
    blockSize: blockSizeSchema
      .default(32)
      .describe("tokens that are decoded together, counted from the end of the prompt; training has no blocks"),
    edit: blockGenerationSchema.shape.edit.describe(
      "`{ start, end }`: regenerate these tokens of the prompt in place; the model sees all tokens around them",
    ),
  });
export type BidirectionalGenerationOptions = z.input<typeof bidirectionalGenerationSchema>;
export type BidirectionalGenerationSettings = z.output<typeof bidirectionalGenerationSchema>;
