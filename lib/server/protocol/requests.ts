import * as z from "zod";
import { samplingFields } from "./fields.js";
import { messageSchema } from "./messages.js";
import { idsSchema, promptSchema } from "./prompt.js";

/** POST /v1/completions */
export const completionRequestSchema = z
  .object({
    ...samplingFields,
    prompt: promptSchema,
    suffix: z.string().nullish().describe("what follows: the text between is generated (infilling)"),
    echo: z.boolean().nullish().describe("the prompt first; with max_tokens 0 nothing else"),
    logprobs: z.number().int().min(0).max(20).nullish().describe("log-probabilities, and this many of the likeliest"),
  })
  .meta({ id: "CompletionRequest" });
export type CompletionRequest = z.output<typeof completionRequestSchema>;

/** What tells OpenAI's service more about a request and asks nothing of its text. */
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
