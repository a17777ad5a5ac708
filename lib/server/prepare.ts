import type { FastifyReply } from "fastify";
import type { GenerateOptions } from "../engine/index.js";
import type { ChatMessage } from "../tokenizer/index.js";
import { ApiError } from "./api-error.js";
import type { ServerContext } from "./context.js";
import { ClientGone } from "./operations/lifetime.js";
import type { PromptPool } from "./prompts/prompt-pool.js";
import type { PromptAnswer } from "./prompts/tasks.js";
import { contextLengthExceeded } from "./protocol/context-length.js";
import { dllmOptions } from "./protocol/dllm.js";
import { textOf } from "./protocol/messages.js";
import type { ChatRequest, CompletionRequest } from "./protocol/requests.js";
import type { TextEngine } from "./served-engine.js";

/** One prompt and what is to be made of it. */
export interface Job {
  prompt: string | number[];
  promptTokens: number;
  options: GenerateOptions & { maxTokens: number; n: number };
}

/** Below this the likeliest token is all there is, and logits divided by it overflow. */
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

/** What is generated anew in place has its own length, whatever max_tokens says. @throws ApiError invalid_value */
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
  const answer = await promptsOf(context).run({ kind: "encode", text, addSpecialTokens, maxLength }, signal);
  return idsOf(answer, maxLength, param, completion);
}

/** Text of ids. */
export async function decodeIds(context: ServerContext, ids: readonly number[], signal?: AbortSignal): Promise<string> {
  const answer = await promptsOf(context).run({ kind: "decode", ids }, signal);
  return "text" in answer ? answer.text : "";
}

/** Texts of ids, each by itself. */
export async function namesOf(context: ServerContext, ids: readonly number[], signal?: AbortSignal): Promise<string[]> {
  const answer = await promptsOf(context).run({ kind: "names", ids }, signal);
  return "names" in answer ? answer.names : [];
}

function promptsOf({ state: { prompts } }: ServerContext): PromptPool {
  if (!prompts) throw new ApiError("loading", "the model is being loaded; try again in a moment", { retryAfter: 2 });
  return prompts;
}

function idsOf(answer: PromptAnswer, maxLength: number, prompt: string, completion?: Completion): number[] {
  if ("ids" in answer) return Array.from(answer.ids);
  const promptTokens = "atLeast" in answer ? answer.atLeast : maxLength + 1;
  const { param = prompt, tokens = 0 } = completion ?? {};
  const counted = { maxLength, promptTokens, completionTokens: tokens, atLeast: true };
  throw contextLengthExceeded({ ...counted, prompt, completion: param });
}

/** Ends with a response whose client is gone. */
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

/** @throws ApiError unsupported_parameter, invalid_value when a request asks for more choices than it gets or one may */
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
      "this model has no chat template, so it cannot be talked to; /v1/completions continues text",
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
  const task = { kind: "chat", messages: plain, options: { addGenerationPrompt, variables } } as const;
  const answer = await promptsOf(context).run({ ...task, addSpecialTokens, maxLength }, signal);
  return idsOf(answer, maxLength, "messages", completion);
}
