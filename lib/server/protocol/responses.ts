import * as z from "zod";

// What the routes answer, for the OpenAPI document. Responses are built by the code of the routes and not parsed again: a
// test compares them with these schemas.

const count = z.int().min(0);
const nullable = <T extends z.ZodType>(schema: T) => schema.nullable();

const usage = z.object({
  prompt_tokens: count,
  completion_tokens: count,
  total_tokens: count,
  prompt_tokens_details: z.object({ cached_tokens: count }),
});

/** OpenAI's `usage`. */
export type ApiUsage = z.output<typeof usage>;

const topLogprob = z.object({ id: count, text: z.string(), logprob: z.number() });

export const dllmStepSchema = z
  .object({
    index: count.describe("number of the choice"),
    block: count.describe("number of the generated block, from 0"),
    step: count.describe("number of the pass in the block"),
    start: count.describe("first position of the block, counted from the prompt's first token"),
    end: count.describe("position after the last one of the block"),
    masks_left: count,
    committed: z.array(
      z.object({
        position: count,
        id: count,
        text: z.string(),
        logprob: z.number(),
        top_logprobs: z.array(topLogprob).optional().describe("where the request asks for log-probabilities"),
      }),
    ),
    remasked: z.array(count).optional().describe("positions that are masked again (option `remask`)"),
  })
  .describe("one denoising pass, as reported with `dllm.stream_steps`")
  .meta({ id: "DllmStep" });
/** One denoising pass, as clients see it. */
export type DllmStep = z.output<typeof dllmStepSchema>;

const score = z.object({
  mode: z.enum(["diffusion", "autoregressive"]),
  nll: z.number(),
  standard_error: z.number(),
  mc_samples: count,
});

const dllm = z.object({
  forwards: count.describe("forward passes of the model, prefill included, summed over choices"),
  denoising_steps: count,
  tokens_per_forward: z.number(),
  scores: z.array(score).optional().describe("of echoed prompts, where the request asks for log-probabilities"),
  steps: z.array(dllmStepSchema).optional().describe("every pass, with `dllm.stream_steps`"),
});

/** Totals of the `dllm` object. */
export type DllmTotals = Pick<z.output<typeof dllm>, "forwards" | "denoising_steps" | "tokens_per_forward">;

const head = <N extends string>(name: N) => ({
  id: z.string(),
  object: z.literal(name),
  created: count.describe("seconds since 1970"),
  model: z.string(),
  system_fingerprint: z.string(),
});

const ending = {
  finish_reason: nullable(z.enum(["stop", "length"])),
  stop_reason: nullable(z.union([z.string(), count])),
  token_ids: z.array(count).optional().describe("with `return_token_ids`"),
};

const completionLogprobs = z.object({
  tokens: z.array(z.string()),
  token_logprobs: z.array(nullable(z.number())),
  top_logprobs: nullable(z.array(nullable(z.record(z.string(), z.number())))),
  text_offset: z.array(count).describe("in code points"),
});
/** OpenAI's log-probabilities of /v1/completions. */
export type CompletionLogprobs = z.output<typeof completionLogprobs>;

/** POST /v1/completions */
export const completionResponseSchema = z
  .object({
    ...head("text_completion"),
    choices: z.array(z.object({ index: count, text: z.string(), logprobs: nullable(completionLogprobs), ...ending })),
    usage,
    dllm,
  })
  .meta({ id: "Completion" });

const tokenLogprob = z.object({ token: z.string(), logprob: z.number(), bytes: z.array(z.int().min(0).max(255)) });
const contentLogprobs = z.object({
  content: z.array(tokenLogprob.extend({ top_logprobs: z.array(tokenLogprob).optional() })),
  refusal: z.null(),
});

/** POST /v1/chat/completions */
export const chatResponseSchema = z
  .object({
    ...head("chat.completion"),
    choices: z.array(
      z.object({
        index: count,
        message: z.object({ role: z.literal("assistant"), content: z.string(), refusal: z.null() }),
        logprobs: nullable(contentLogprobs),
        ...ending,
      }),
    ),
    usage,
    dllm,
  })
  .meta({ id: "ChatCompletion" });

/** GET /v1/models/{model} */
export const modelSchema = z
  .object({
    id: z.string(),
    object: z.literal("model"),
    created: count.describe("seconds since 1970"),
    owned_by: z.string(),
    root: z.string(),
    parent: z.null(),
    max_model_len: nullable(count),
    permission: z.array(z.unknown()),
    dllm: nullable(
      z.object({
        block_size: count,
        mask_id: nullable(count),
        modes: z.array(z.string()),
        chat: z.boolean(),
        infill: z.boolean(),
        parameters: count,
        vocabulary: count,
        dtype: z.string(),
        weights: z.string(),
        device: z.string(),
      }),
    ),
  })
  .meta({ id: "Model" });

/** GET /v1/models */
export const modelListSchema = z
  .object({ object: z.literal("list"), data: z.array(modelSchema) })
  .meta({ id: "ModelList" });

/** POST /tokenize */
export const tokensSchema = z
  .object({
    tokens: z.array(count),
    count,
    max_model_len: count,
    token_strs: nullable(z.array(z.string())),
  })
  .meta({ id: "Tokens" });

/** POST /detokenize */
export const textSchema = z.object({ prompt: z.string() }).meta({ id: "Text" });

/** GET /version */
export const versionSchema = z.object({ version: z.string(), system_fingerprint: z.string() }).meta({ id: "Version" });

/** GET /health and /ready */
export const healthSchema = z
  .object({
    status: z.enum(["ok", "loading", "starting", "unresponsive", "draining", "dead"]),
    reason: z.string().optional().describe("why it does not respond"),
  })
  .meta({ id: "Health" });

/** Every error. */
export const errorSchema = z
  .object({
    error: z.object({ message: z.string(), type: z.string(), param: nullable(z.string()), code: z.string() }),
  })
  .meta({ id: "Error" });
