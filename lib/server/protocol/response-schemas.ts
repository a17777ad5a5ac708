/** JSON schemas of what is answered, for the OpenAPI document. */

const string = { type: "string" } as const;
const integer = { type: "integer" } as const;
const number = { type: "number" } as const;
const boolean = { type: "boolean" } as const;
const nullable = (schema: object) => ({ anyOf: [schema, { type: "null" }] });
const array = (items: object) => ({ type: "array", items });
const object = (properties: Record<string, object>, optional: readonly string[] = []) => ({
  type: "object",
  required: Object.keys(properties).filter((name) => !optional.includes(name)),
  properties,
});

const usage = object({
  prompt_tokens: integer,
  completion_tokens: integer,
  total_tokens: integer,
  prompt_tokens_details: object({ cached_tokens: integer }),
});

const topLogprob = object({ id: integer, text: string, logprob: number });

const step = object(
  {
    index: integer,
    block: integer,
    step: integer,
    start: integer,
    end: integer,
    masks_left: integer,
    committed: array(
      object({ position: integer, id: integer, text: string, logprob: number, top_logprobs: array(topLogprob) }, [
        "top_logprobs",
      ]),
    ),
    remasked: array(integer),
  },
  ["remasked"],
);

const score = object({
  mode: { enum: ["diffusion", "autoregressive"] },
  nll: number,
  standard_error: number,
  mc_samples: integer,
});

const dllm = object(
  {
    forwards: integer,
    denoising_steps: integer,
    tokens_per_forward: number,
    scores: array(score),
    steps: array(step),
  },
  ["scores", "steps"],
);

const head = (name: string) => ({
  id: string,
  object: { const: name },
  created: integer,
  model: string,
  system_fingerprint: string,
});

const finishReason = nullable({ enum: ["stop", "length"] });
const stopReason = nullable({ anyOf: [string, integer] });

const tokenLogprob = object(
  { token: string, logprob: number, bytes: array(integer), top_logprobs: array({ type: "object" }) },
  ["top_logprobs"],
);

const choice = object(
  {
    index: integer,
    text: string,
    logprobs: nullable(
      object({
        tokens: array(string),
        token_logprobs: array(nullable(number)),
        top_logprobs: nullable(array(nullable({ type: "object", additionalProperties: number }))),
        text_offset: array(integer),
      }),
    ),
    finish_reason: finishReason,
    stop_reason: stopReason,
    token_ids: array(integer),
  },
  ["token_ids"],
);

const chatChoice = object(
  {
    index: integer,
    message: object({ role: { const: "assistant" }, content: string, refusal: { type: "null" } }),
    logprobs: nullable(object({ content: array(tokenLogprob), refusal: { type: "null" } })),
    finish_reason: finishReason,
    stop_reason: stopReason,
    token_ids: array(integer),
  },
  ["token_ids"],
);

const model = object({
  id: string,
  object: { const: "model" },
  created: integer,
  owned_by: string,
  root: string,
  parent: { type: "null" },
  max_model_len: nullable(integer),
  permission: array({}),
  dllm: nullable(
    object({
      block_size: integer,
      mask_id: nullable(integer),
      modes: array(string),
      chat: boolean,
      infill: boolean,
      parameters: integer,
      vocabulary: integer,
      dtype: string,
      weights: string,
      device: string,
    }),
  ),
});

export const RESPONSE_SCHEMAS = {
  Completion: object({ ...head("text_completion"), choices: array(choice), usage, dllm }),
  ChatCompletion: object({ ...head("chat.completion"), choices: array(chatChoice), usage, dllm }),
  Model: model,
  ModelList: object({ object: { const: "list" }, data: array(model) }),
  Tokens: object({
    tokens: array(integer),
    count: integer,
    max_model_len: integer,
    token_strs: nullable(array(string)),
  }),
  Text: object({ prompt: string }),
  Version: object({ version: string, system_fingerprint: string }),
  Health: object({ status: { enum: ["ok", "loading", "starting", "unresponsive", "draining", "dead"] } }),
  DllmStep: step,
} as const;

export const ERROR_SCHEMA = object({
  error: object({ message: string, type: string, param: nullable(string), code: string }),
});
