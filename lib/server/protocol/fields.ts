import * as z from "zod";
import { dllmRequestSchema } from "./dllm.js";

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
    .describe("strings that end the text and are no part of it"),
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
  add_special_tokens: z.boolean().nullish().describe("put the tokens around the prompt that the tokenizer asks for"),
  cache_salt: z
    .string()
    .min(1)
    .max(256)
    .nullish()
    .describe("prefixes are found in the cache by requests of the same API key and salt only"),
  user: z.string().nullish().describe("has no effect"),
  dllm: dllmRequestSchema.nullish(),
};

/** A field that exists elsewhere and is not honoured here, and the values of it that ask for nothing. */
export interface Unsupported {
  readonly neutral?: readonly unknown[];
  readonly instead?: string;
}

/** Honouring none of these in silence: the text would not be what the client asked for. */
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
