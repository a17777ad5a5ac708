import * as z from "zod";
import { commitConfigSchema } from "../../diffusion/commit.js";
import { type GenerateOptions, remaskSchema } from "../../engine/index.js";
import { ApiError } from "../errors.js";
import { messageSchema } from "./messages.js";

/** The request's `dllm` object: how a text is denoised. */
export const dllmRequestSchema = z
  .strictObject({
    mode: z
      .enum(["diffusion", "autoregressive"])
      .nullish()
      .describe("`diffusion` (the default), or `autoregressive`: the same weights, token by token"),
    block_size: z
      .number()
      .int()
      .min(1)
      .max(1024)
      .nullish()
      .describe("number of tokens that are denoised together; default: the server's, as trained"),
    steps: z
      .number()
      .int()
      .min(1)
      .max(1024)
      .nullish()
      .describe("number of passes per block; default: one token per pass"),
    threshold: z
      .number()
      .min(0)
      .max(1)
      .nullish()
      .describe("commit every token with a higher probability, at least one per pass"),
    commit: commitConfigSchema
      .nullish()
      .describe(
        'which tokens a pass commits, instead of `steps` and `threshold`: `{ rule: "static", steps? }`, ' +
          '`{ rule: "threshold", value }`, `{ rule: "hybrid", value, steps? }`, `{ rule: "factor", factor }` or ' +
          '`{ rule: "entropy", bound }`',
      ),
    remask: remaskSchema
      .nullish()
      .describe("`{ below, rounds }`: mask a committed token again when its probability falls below this value"),
    canvas: z
      .enum(["growing", "fixed"])
      .nullish()
      .describe(
        "`growing` (the default): add blocks until a stop; `fixed`: exactly `max_tokens`, end tokens are never chosen",
      ),
    edit: z
      .strictObject({ start: z.number().int().min(0), end: z.number().int().min(1) })
      .nullish()
      .describe("`{ start, end }`: regenerate these tokens of the prompt in place"),
    stream_steps: z.boolean().nullish().describe("report every denoising pass"),
  })
  .describe("how the text is denoised; an extension of OpenAI's API");
export type DllmRequest = z.output<typeof dllmRequestSchema>;

/** @throws ApiError invalid_value for options that exclude each other */
export function dllmOptions(dllm: DllmRequest | null | undefined): Partial<GenerateOptions> {
  if (!dllm) return {};
  const rules = (["steps", "threshold", "commit"] as const).filter((name) => dllm[name] != null);
  if (rules.length > 1) {
    const message = `dllm.${rules.join(" and dllm.")} cannot be combined: commit can hold both ("hybrid")`;
    throw new ApiError("invalid_value", message, { param: `dllm.${rules[1]}` });
  }
  if (dllm.mode === "autoregressive") {
    const odd = (["block_size", "steps", "threshold", "commit", "remask", "canvas", "edit"] as const).find(
      (name) => dllm[name] != null,
    );
    if (odd) {
      throw new ApiError("invalid_value", `dllm.${odd} means nothing in mode "autoregressive"`, {
        param: `dllm.${odd}`,
      });
    }
  }
  if (dllm.edit && dllm.edit.end <= dllm.edit.start) {
    throw new ApiError("invalid_value", "dllm.edit.end must be greater than dllm.edit.start", {
      param: "dllm.edit.end",
    });
  }
  const { threshold, commit, steps } = dllm;
  return {
    ...(dllm.mode != null && { mode: dllm.mode }),
    ...(dllm.block_size != null && { blockSize: dllm.block_size }),
    ...(steps != null && { commit: { rule: "static", steps } }),
    ...(threshold != null && { commit: { rule: "threshold", value: threshold } }),
    ...(commit != null && { commit }),
    ...(dllm.remask != null && { remask: dllm.remask }),
    ...(dllm.canvas != null && { canvas: dllm.canvas }),
    ...(dllm.edit != null && { edit: dllm.edit }),
  };
}

export type Prompt = string | string[] | number[] | number[][];

const expected = "expected a string, an array of strings, an array of token ids, or an array of arrays of token ids";
const isId = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
const isIds = (value: unknown) => Array.isArray(value) && value.length > 0 && value.every(isId);

/** An array of token ids. It is checked up to the first value that is wrong: there may be millions. */
export const idsSchema = z
  .custom<number[]>((value) => Array.isArray(value) && value.every(isId), { error: "expected an array of token ids" })
  .meta({ type: "array", items: { type: "integer", minimum: 0 } });

/** As {@link idsSchema}: a union of zod's arrays would make a message for each wrong value of each kind. */
export const promptSchema = z
  .custom<Prompt>(
    (value) =>
      typeof value === "string" ||
      isIds(value) ||
      (Array.isArray(value) &&
        value.length > 0 &&
        (value.every((each) => typeof each === "string") || value.every(isIds))),
    { error: expected },
  )
  .meta({
    description: "one text or several, or their token ids",
    anyOf: [
      { type: "string" },
      { type: "array", minItems: 1, items: { type: "string" } },
      { type: "array", minItems: 1, items: { type: "integer", minimum: 0 } },
      {
        type: "array",
        minItems: 1,
        items: { type: "array", minItems: 1, items: { type: "integer", minimum: 0 } },
      },
    ],
  });

/** The prompts of a request, one by one. */
export function promptsOf(prompt: Prompt): (string | number[])[] {
  if (typeof prompt === "string") return [prompt];
  return typeof prompt[0] === "number" ? [prompt as number[]] : (prompt as (string | number[])[]);
}

const MOST_SEED = 2n ** 63n - 1n;
const LEAST_SEED = -(2n ** 63n);

/** A signed integer of 64 bits; a bigint where a number would lose digits (see exact-numbers.ts). */
const seedSchema = z
  .custom<number | bigint>(
    (value) => Number.isSafeInteger(value) || (typeof value === "bigint" && value >= LEAST_SEED && value <= MOST_SEED),
    { error: "expected a signed integer of 64 bits, written without a fraction or an exponent" },
  )
  .meta({ type: "integer", format: "int64" });

/** Fields that both kinds of request have. Every one may also be null, which is as if it were not there. */
export const samplingFields = {
  model: z.string().max(256).nullish().describe("one of /v1/models; default: the only one"),
  max_tokens: z.number().int().min(0).nullish(),
  temperature: z.number().min(0).max(100).nullish().describe("0: the most likely token; default: the server's"),
  top_p: z.number().min(0).max(1).nullish().describe("0: the most likely token"),
  top_k: z.number().int().min(-1).nullish().describe("0 or -1: all"),
  min_p: z.number().min(0).max(1).nullish(),
  n: z.number().int().min(1).max(128).nullish().describe("choices; choice i draws with seed + i"),
  best_of: z.number().int().nullish().describe("as many as n: no more are drawn than are given"),
  seed: seedSchema.nullish().describe("equal seeds give equal texts, in any batch; default: a random one"),
  stop: z
    .union([z.string().max(1024), z.array(z.string().min(1).max(1024)).max(16)])
    .nullish()
    .describe("strings that end the text and are not part of it"),
  stop_token_ids: z.array(z.number().int().min(0)).max(256).nullish().describe("besides the model's end tokens"),
  ignore_eos: z.boolean().nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  repetition_penalty: z.number().min(0.01).max(10).nullish(),
  logit_bias: z
    .record(z.string().regex(/^\d{1,9}$/), z.number().min(-100).max(100))
    .refine((biases) => Object.keys(biases).length <= 1024, { error: "at most 1024 tokens" })
    .nullish()
    .describe("by token id; -100 forbids"),
  stream: z.boolean().nullish(),
  stream_options: z
    .strictObject({
      include_usage: z.boolean().nullish(),
      continuous_usage_stats: z.boolean().nullish(),
      include_obfuscation: z.literal(false, { error: "only false is supported: chunks are not padded" }).nullish(),
    })
    .nullish(),
  return_token_ids: z.boolean().nullish(),
  add_special_tokens: z.boolean().nullish().describe("add the tokenizer's special tokens around the prompt"),
  cache_salt: z
    .string()
    .min(1)
    .max(256)
    .nullish()
    .describe("prefixes are found in the cache by requests of the same API key and salt only"),
  user: z.string().nullish().describe("has no effect"),
  dllm: dllmRequestSchema.nullish(),
};

/** A field of other servers that is not supported here, and the values of it that change nothing. */
export interface Unsupported {
  readonly neutral?: readonly unknown[];
  readonly instead?: string;
}

/** These are refused rather than ignored: the text would not be what the client wants. */
export const unsupportedFields: Record<string, Unsupported> = {
  min_tokens: { neutral: [0] },
  include_stop_str_in_output: { neutral: [false] },
  skip_special_tokens: { neutral: [true] },
  spaces_between_special_tokens: { neutral: [true, false] },
  response_format: { neutral: [{ type: "text" }] },
  structured_outputs: {},
  guided_json: {},
  guided_regex: {},
  guided_choice: {},
  guided_grammar: {},
  json_schema: {},
  regex: {},
  ebnf: {},
  grammar: {},
  prompt_logprobs: { neutral: [0], instead: "echo with logprobs" },
  logprob_token_ids: { neutral: [[]] },
  allowed_token_ids: { neutral: [[]] },
  bad_words: { neutral: [[]], instead: "logit_bias" },
  truncate_prompt_tokens: {},
  use_beam_search: { neutral: [false] },
  length_penalty: { neutral: [1] },
  typical_p: { neutral: [1] },
  return_tokens_as_token_ids: { neutral: [false], instead: "return_token_ids" },
  prompt_embeds: {},
  priority: { neutral: [0] },
  lora_path: {},
  vllm_xargs: { instead: "dllm" },
};

/** Of chat only. */
export const unsupportedChatFields: Record<string, Unsupported> = {
  ...unsupportedFields,
  tools: { neutral: [[]] },
  tool_choice: { neutral: ["none", "auto"] },
  functions: { neutral: [[]] },
  function_call: { neutral: ["none", "auto"] },
  modalities: { neutral: [["text"], []] },
  audio: {},
  reasoning: {},
  web_search_options: {},
  moderation: {},
  chat_template: {},
  continue_final_message: { neutral: [false] },
  echo: { neutral: [false] },
  suffix: { instead: "suffix of /v1/completions" },
};

/** POST /v1/completions */
export const completionRequestSchema = z
  .object({
    ...samplingFields,
    prompt: promptSchema,
    suffix: z.string().nullish().describe("what follows: the text between is generated (infilling)"),
    echo: z.boolean().nullish().describe("the prompt first; with max_tokens 0 nothing else"),
    logprobs: z
      .number()
      .int()
      .min(0)
      .max(20)
      .nullish()
      .describe("log-probabilities, and this many of the most likely tokens"),
  })
  .meta({ id: "CompletionRequest" });
export type CompletionRequest = z.output<typeof completionRequestSchema>;

/** Hints for OpenAI's service, which do not affect the text. */
const hints = {
  metadata: z.record(z.string(), z.string()).nullish().describe("has no effect"),
  safety_identifier: z.string().nullish().describe("has no effect"),
  prompt_cache_key: z.string().nullish().describe("has no effect: prefixes are found by their tokens"),
  prompt_cache_options: z.looseObject({}).nullish().describe("has no effect"),
  prompt_cache_retention: z.string().nullish().describe("has no effect"),
  service_tier: z.string().nullish().describe("has no effect"),
  store: z.boolean().nullish().describe("has no effect: nothing is stored"),
  verbosity: z.string().nullish().describe("has no effect"),
  reasoning_effort: z.string().nullish().describe("has no effect"),
  parallel_tool_calls: z.boolean().nullish().describe("has no effect"),
  prediction: z.looseObject({ type: z.string() }).nullish().describe("has no effect"),
};

/** POST /v1/chat/completions */
export const chatRequestSchema = z
  .object({
    ...samplingFields,
    messages: z.array(messageSchema).min(1).max(4096),
    max_completion_tokens: z.number().int().min(0).nullish(),
    logprobs: z.boolean().nullish(),
    top_logprobs: z.number().int().min(0).max(20).nullish(),
    add_generation_prompt: z.boolean().nullish(),
    chat_template_kwargs: z.record(z.string(), z.unknown()).nullish().describe("more variables for the template"),
    ...hints,
  })
  .meta({ id: "ChatCompletionRequest" });
export type ChatRequest = z.output<typeof chatRequestSchema>;

/** POST /tokenize */
export const tokenizeRequestSchema = z
  .object({
    model: z.string().max(256).nullish(),
    prompt: z.string().nullish(),
    messages: z.array(messageSchema).min(1).max(4096).nullish(),
    add_special_tokens: z.boolean().nullish(),
    add_generation_prompt: z.boolean().nullish(),
    chat_template_kwargs: z.record(z.string(), z.unknown()).nullish(),
    return_token_strs: z.boolean().nullish(),
  })
  .meta({ id: "TokenizeRequest" });

/** POST /detokenize */
export const detokenizeRequestSchema = z
  .object({
    model: z.string().max(256).nullish(),
    tokens: idsSchema,
  })
  .meta({ id: "DetokenizeRequest" });

/** What a request says of its stream. */
export interface Streaming {
  stream: boolean;
  includeUsage: boolean;
  continuousUsage: boolean;
  streamSteps: boolean;
}

/** @throws ApiError invalid_value: stream_options without stream */
export function checkStreamOptions(request: Pick<CompletionRequest, "stream" | "stream_options" | "dllm">): Streaming {
  const { stream_options: options } = request;
  const stream = request.stream ?? false;
  if (options != null && !stream) {
    throw new ApiError("invalid_value", "stream_options needs stream: true", { param: "stream_options" });
  }
  return {
    stream,
    includeUsage: options?.include_usage ?? false,
    continuousUsage: options?.continuous_usage_stats ?? false,
    streamSteps: request.dllm?.stream_steps ?? false,
  };
}
