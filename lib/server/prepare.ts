import type { FastifyReply } from "fastify";
import type { GenerateOptions } from "../engine/index.js";
import type { ChatMessage } from "../tokenizer/index.js";
import type { ServerContext, TextEngine } from "./context.js";
import { ApiError } from "./errors.js";
import { ClientGone } from "./operations/request-scope.js";
import type { PromptPool } from "./prompts/prompt-pool.js";
import type { EncodedPrompt } from "./prompts/prompt-thread.js";
import { textOf } from "./protocol/messages.js";
import { type ChatRequest, type CompletionRequest, dllmOptions } from "./protocol/requests.js";

/** One prompt and what is to be made of it. */
export interface Job {
  prompt: string | number[];
  promptTokens: number;
  options: GenerateOptions & { maxTokens: number; n: number };
}

/** Below this, sampling always gives the most likely token, and logits divided by it overflow. */
const LEAST_TEMPERATURE = 1e-3;

type Sampling = Pick<
  CompletionRequest,
  Exclude<keyof CompletionRequest, "prompt" | "suffix" | "echo" | "logprobs" | "max_tokens">
>;

/** The engine's options of what both endpoints have, without the number of tokens. */
export function samplingOptions(
  { settings }: ServerContext,
  { model: facts }: TextEngine,
  request: Sampling,
): GenerateOptions {
  const stop = typeof request.stop === "string" ? [request.stop] : (request.stop ?? []);
  const ignoreEos = request.ignore_eos ?? false;
  const extraStops = request.stop_token_ids ?? [];
  for (const id of [...extraStops, ...Object.keys(request.logit_bias ?? {}).map(Number)]) {
    if (id < facts.vocabSize) continue;
    const param = extraStops.includes(id) ? "stop_token_ids" : "logit_bias";
    const message = `${param}: the model has no token ${id}; its vocabulary is ${facts.vocabSize}`;
    throw new ApiError("invalid_value", message, { param });
  }
  const temperature = request.temperature ?? settings.temperature;
  const edited = request.dllm?.edit;
  if (edited) checkEdit(edited, settings, facts);
  return {
    ...(request.cache_salt != null && { cacheSalt: request.cache_salt }),
    temperature: temperature < LEAST_TEMPERATURE ? 0 : temperature,
    ...(request.top_p != null && { topP: request.top_p }),
    ...(request.top_k != null && { topK: Math.max(0, request.top_k) }),
    ...(request.min_p != null && { minP: request.min_p }),
    ...(request.seed != null && { seed: request.seed }),
    ...(request.presence_penalty != null && { presencePenalty: request.presence_penalty }),
    ...(request.frequency_penalty != null && { frequencyPenalty: request.frequency_penalty }),
    ...(request.repetition_penalty != null && { repetitionPenalty: request.repetition_penalty }),
    ...(request.logit_bias != null && { logitBias: request.logit_bias }),
    stop: stop.filter((text) => text !== ""),
    ...(extraStops.length > 0 && { stopTokenIds: [...(ignoreEos ? [] : facts.eosIds), ...extraStops] }),
    ignoreEos,
    ...dllmOptions(request.dllm),
  };
}

/** Tokens that are regenerated in place have their own number, independent of max_tokens. @throws ApiError invalid_value */
function checkEdit(
  { start, end }: { start: number; end: number },
  { maxTokensLimit }: ServerContext["settings"],
  { maxLength }: TextEngine["model"],
): void {
  if (end > maxLength) {
    const message = `dllm.edit.end: ${end} is beyond the model's context of ${maxLength} tokens`;
    throw new ApiError("invalid_value", message, { param: "dllm.edit.end" });
  }
  if (maxTokensLimit === undefined || end - start <= maxTokensLimit) return;
  const message = `dllm.edit: at most ${maxTokensLimit} tokens are generated here, not ${end - start}`;
  throw new ApiError("invalid_value", message, { param: "dllm.edit" });
}

/**
 * How many tokens a choice may have.
 *
 * @param asked undefined: as many as there is room for, or `fallback`
 * @throws ApiError context_length_exceeded, invalid_value
 */
export function tokensToGenerate(
  { settings }: ServerContext,
  { model: facts }: TextEngine,
  promptTokens: number,
  asked: number | null | undefined,
  { param, prompt, fallback }: { param: string; prompt: string; fallback?: number },
): number {
  const { maxLength } = facts;
  const limit = settings.maxTokensLimit ?? maxLength;
  if (asked != null && asked > limit && limit < maxLength) {
    throw new ApiError("invalid_value", `${param}: at most ${limit} tokens are generated here, not ${asked}`, {
      param,
    });
  }
  const room = maxLength - promptTokens;
  const tokens = asked ?? Math.min(fallback ?? room, room, limit);
  if (tokens > room || (asked == null && room < 1)) {
    const completionTokens = asked ?? Math.min(fallback ?? 1, limit);
    throw contextLengthExceeded({ maxLength, promptTokens, completionTokens, prompt, completion: param });
  }
  return tokens;
}

/** The field that asks for tokens, and how many. */
interface Completion {
  param: string;
  tokens: number;
}

/**
 * Ids of a text, unless it is certainly too long: then nothing is spent on it. The model's tokenizer runs in a thread
 * apart.
 *
 * @param options.completion the field that asks for tokens, and how many
 * @throws ApiError context_length_exceeded, prompt_too_costly; ClientGone
 */
export async function encodeText(
  context: ServerContext,
  engine: TextEngine,
  text: string,
  options: { param: string; addSpecialTokens: boolean; completion?: Completion; signal?: AbortSignal },
): Promise<number[]> {
  const { param, addSpecialTokens, completion, signal } = options;
  const { maxLength } = engine.model;
  const answer = await promptsOf(context).run("encode", { text, addSpecialTokens, maxLength }, signal);
  return idsOf(answer, maxLength, param, completion);
}

/** Text of ids. */
export async function decodeIds(context: ServerContext, ids: readonly number[], signal?: AbortSignal): Promise<string> {
  return await promptsOf(context).run("decode", ids, signal);
}

/** Texts of ids, each by itself. */
export async function namesOf(context: ServerContext, ids: readonly number[], signal?: AbortSignal): Promise<string[]> {
  return await promptsOf(context).run("names", ids, signal);
}

function promptsOf({ state: { prompts } }: ServerContext): PromptPool {
  if (!prompts) throw new ApiError("loading", "the model is being loaded; try again in a moment", { retryAfter: 2 });
  return prompts;
}

function idsOf(answer: EncodedPrompt, maxLength: number, prompt: string, completion?: Completion): number[] {
  if ("ids" in answer) return Array.from(answer.ids);
  const { param = prompt, tokens = 0 } = completion ?? {};
  const counted = { maxLength, promptTokens: answer.atLeast, completionTokens: tokens, atLeast: true };
  throw contextLengthExceeded({ ...counted, prompt, completion: param });
}

/** A signal that aborts when the client closes the connection before the response is complete. */
export function clientSignal({ raw }: FastifyReply): AbortSignal {
  const controller = new AbortController();
  raw.once("close", () => {
    if (!raw.writableFinished) controller.abort(new ClientGone("the client has closed the connection"));
  });
  return controller.signal;
}

/** Refuses ids that the model does not have, and prompts without any. */
export function checkIds({ model: facts }: TextEngine, ids: readonly number[], param: string): void {
  if (ids.length === 0) throw new ApiError("invalid_value", `${param}: an empty prompt cannot be continued`, { param });
  const strange = ids.find((id) => id >= facts.vocabSize);
  if (strange === undefined) return;
  const message = `${param}: the model has no token ${strange}; its vocabulary is ${facts.vocabSize}`;
  throw new ApiError("invalid_value", message, { param });
}

/** @throws ApiError unsupported_parameter, invalid_value for more choices than a request may have */
export function checkChoices(
  { settings }: ServerContext,
  prompts: number,
  n: number,
  bestOf: number | null | undefined,
): void {
  if (bestOf != null && bestOf !== n) {
    const message = `best_of is not supported but for as many choices as are given: n is ${n}, best_of ${bestOf}`;
    throw new ApiError("unsupported_parameter", message, { param: "best_of" });
  }
  if (prompts * n <= settings.maxChoices) return;
  const message = `${prompts} prompt${prompts > 1 ? "s" : ""} times n = ${n} are more than ${settings.maxChoices} choices`;
  throw new ApiError("invalid_value", message, { param: prompts > 1 ? "prompt" : "n" });
}

/**
 * A conversation as ids, by the model's own template.
 *
 * @throws ApiError chat_template_missing, context_length_exceeded, prompt_too_costly; TokenizerError
 *   CHAT_TEMPLATE_FAILED, CHAT_TEMPLATE_INVALID, CHAT_TEMPLATE_UNSUPPORTED; ClientGone
 */
export async function encodeChat(
  context: ServerContext,
  engine: TextEngine,
  messages: ChatRequest["messages"],
  options: {
    addGenerationPrompt: boolean;
    variables?: Record<string, unknown>;
    addSpecialTokens?: boolean;
    completion?: Completion;
    signal?: AbortSignal;
  },
): Promise<number[]> {
  if (!engine.model.hasChatTemplate) {
    throw new ApiError(
      "chat_template_missing",
      "this model has no chat template; use /v1/completions to continue text",
      { param: "messages" },
    );
  }
  const { addGenerationPrompt, variables, addSpecialTokens = false, completion, signal } = options;
  const plain = messages.map((message): ChatMessage => {
    const { content: _, role, ...rest } = message;
    // What newer clients call "developer" is what templates know as "system".
    return { ...rest, role: role === "developer" ? "system" : role, content: textOf(message) };
  });
  const { maxLength } = engine.model;
  const task = { messages: plain, options: { addGenerationPrompt, variables }, addSpecialTokens, maxLength };
  const answer = await promptsOf(context).run("chat", task, signal);
  return idsOf(answer, maxLength, "messages", completion);
}

export interface Overflow {
  /** Tokens of prompt and completion that there is room for. */
  maxLength: number;
  promptTokens: number;
  /** Tokens to be generated: as asked for, or the fewest there may be. */
  completionTokens: number;
  /** Whether the prompt was counted only until it was certainly too long. */
  atLeast?: boolean;
  /** The fields that hold the prompt, and that ask for tokens. */
  prompt: string;
  completion: string;
}

/**
 * The error of a request that the context is too short for. Clients (LiteLLM, LangChain, aider, ...) know it by these
 * words, those of OpenAI and vLLM, and then shorten their conversation; "prompt is too long" is Anthropic's, and
 * LangChain looks for it or the code, in the message alone.
 */
export function contextLengthExceeded(overflow: Overflow): ApiError {
  const { maxLength, promptTokens, completionTokens, prompt, completion } = overflow;
  const least = overflow.atLeast ? "at least " : "";
  const isPrompt = promptTokens + 1 > maxLength;
  const why = isPrompt
    ? `${prompt}: the prompt is too long: ${least}${promptTokens} tokens > ${maxLength} maximum`
    : completionTokens < maxLength
      ? `${completion}: the prompt is too long to leave room for ${completionTokens} tokens`
      : `${completion}: more than the whole context (context_length_exceeded)`;
  const message =
    `This model's maximum context length is ${maxLength} tokens. However, you requested ` +
    `${least}${promptTokens + completionTokens} tokens (${promptTokens} in the messages, ${completionTokens} in the ` +
    `completion). Please reduce the length of the messages or completion. ${why}`;
  return new ApiError("context_length_exceeded", message, { param: isPrompt ? prompt : completion });
}
