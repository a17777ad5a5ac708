import type { StableDiffCoder } from "../checkpoint/stable-diffcoder.js";
import type { Decoder } from "../model/decoder.js";
import { parseOptions } from "./errors.js";
import { EventQueue } from "./event-queue.js";
import {
  type AutoregressiveGenerationOptions,
  autoregressiveGenerationSchema,
  type BidirectionalGenerationOptions,
  type BlockGenerationOptions,
  bidirectionalGenerationSchema,
  blockGenerationSchema,
  type EngineSettings,
  engineOptionsSchema,
  type GenerateSettings,
} from "./options.js";
import { makeRequest, type Prompt, renderPrompt } from "./request.js";
import type { EngineEvent } from "./types.js";

/**
 * Decodes a prompt by block diffusion in this thread, on an engine core for this one request. Blocks are aligned to position
 * 0, so the first one holds the prompt's remainder; the last is cut so that at most `maxTokens` tokens come out. Each is fully
 * masked at first and denoised in passes that commit what the commit rule chooses. Attention is block-causal over prompt and
 * output. Decoding ends as soon as a stop token and everything before it is committed.
 *
 * The same weights, prompt, options and seed give the same tokens. With a temperature, all processes of a tensor-parallel
 * model must be given the same seed. On CUDA no graphs are recorded: for many requests create an `Engine`.
 *
 * @param model with a {@link StableDiffCoder} that has a tokenizer, the prompt may be text, and events have text
 * @throws EngineError at the first event: ENGINE_OPTIONS, ENGINE_PROMPT, ENGINE_TOO_LONG, or ENGINE_MODEL when the model's
 *   logits are NaN
 */
export async function* generateBlocks(
  model: Decoder | StableDiffCoder,
  prompt: Prompt,
  options: BlockGenerationOptions = {},
): AsyncGenerator<EngineEvent, void> {
  const settings = parseOptions("generateBlocks", blockGenerationSchema, options);
  yield* generateHere(model, prompt, { ...settings, mode: "diffusion" });
}

/**
 * Decodes a prompt token by token in this thread, each from the hidden state before it. The mask is causal, so this is the
 * model of the AR stages; weights trained by diffusion can be decoded this way, too.
 *
 * @param prompt at least one token
 * @throws as {@link generateBlocks}
 */
export async function* generateAutoregressive(
  model: Decoder | StableDiffCoder,
  prompt: Prompt,
  options: AutoregressiveGenerationOptions = {},
): AsyncGenerator<EngineEvent, void> {
  const settings = parseOptions("generateAutoregressive", autoregressiveGenerationSchema, options);
  yield* generateHere(model, prompt, { ...settings, mode: "autoregressive" });
}

/**
 * Decodes a prompt with a model of full bidirectional attention (`bidirectionalObjective`; LLaDA, Dream), in this
 * thread. The canvas, prompt and `maxTokens` masked tokens, exists from the start; every pass computes all of it, and
 * every position attends to all others, so a block is predicted with the masked tokens after it in view. There is no KV
 * cache. Blocks are decoded from left to right, counted from the end of the prompt; a pass commits tokens of the current
 * block by the commit rule. Decoding ends as soon as a stop token and everything before it is committed.
 *
 * Events, seeds and the other options are those of {@link generateBlocks}. The choices of `n` are computed in one batch.
 * `edit` infills: the tokens after the span are seen, too.
 *
 * @param model with a {@link StableDiffCoder} that has a tokenizer, the prompt may be text, and events have text
 * @throws EngineError at the first event: ENGINE_OPTIONS, ENGINE_PROMPT, ENGINE_TOO_LONG; later ENGINE_MODEL when the
 *   model's logits are NaN, and ENGINE_OPTIONS for a custom commit rule that is not valid
 */
export async function* generateBidirectional(
  model: Decoder | StableDiffCoder,
  prompt: Prompt,
  options: BidirectionalGenerationOptions = {},
): AsyncGenerator<EngineEvent, void> {
  const settings = parseOptions("generateBidirectional", bidirectionalGenerationSchema, options);
  const { decodeBidirectional } = await import("./bidirectional.js");
  yield* decodeBidirectional(await coderOf(model), prompt, settings);
}

type HereSettings = Omit<GenerateSettings, "cacheSalt" | "priority"> &
  Pick<EngineSettings, "maxNumBatchedTokens"> &
  Partial<Pick<EngineSettings, "shift" | "maskId">> & { signal?: AbortSignal };

const KEY = 0;

async function coderOf(model: Decoder | StableDiffCoder): Promise<StableDiffCoder> {
  const { StableDiffCoder } = await import("../checkpoint/stable-diffcoder.js");
  return model instanceof StableDiffCoder ? model : new StableDiffCoder(model);
}

async function* generateHere(
  model: Decoder | StableDiffCoder,
  prompt: Prompt,
  { signal, shift, maskId, maxNumBatchedTokens, ...settings }: HereSettings,
): AsyncGenerator<EngineEvent, void> {
  // Only now: they load the addon, which an engine with a worker does not need in this process.
  const { EngineCore } = await import("./core.js");
  const coder = await coderOf(model);
  const { vocabSize, maxPositionEmbeddings: context } = coder.config;
  const tokenizer = coder.hasTokenizer ? coder.tokenizer : undefined;
  const parsed: GenerateSettings = { ...settings, priority: 0 };
  const engine = engineOptionsSchema.parse({ shift, maskId, maxNumBatchedTokens, cudaGraphs: false, eventInterval: 0 });
  const ids = renderPrompt(prompt, parsed.suffix, { tokenizer, vocabSize, fimFormat: engine.fimFormat });
  // No more memory than the request fills. Only its own choices share prefixes.
  const { n, edit, maxTokens } = parsed;
  const length = Math.min(context, edit ? ids.length : ids.length + maxTokens);
  const cacheTokens = n * Math.max(1, Math.ceil(length / engine.pageSize)) * engine.pageSize;
  const queue = new EventQueue<EngineEvent>(() => {});
  const core = new EngineCore(coder, { ...engine, cacheTokens, prefixCache: n > 1 }, (reports) => {
    for (const { events, error, last } of reports) {
      for (const event of events) queue.push(event);
      if (last) queue.end(error);
    }
  });
  const abort = () => core.abort(KEY);
  try {
    core.generate(makeRequest(KEY, ids, parsed, { tokenizer, info: core.info, settings: engine, isHere: true }));
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort, { once: true });
    yield* queue;
  } finally {
    signal?.removeEventListener("abort", abort);
    await core.close();
  }
}
