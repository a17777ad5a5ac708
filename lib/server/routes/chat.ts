import { performance } from "node:perf_hooks";
import type { FastifyInstance } from "fastify";
import type { ServerContext } from "../context.js";
import { ApiError } from "../errors.js";
import { answer } from "../generate.js";
import { documented } from "../openapi.js";
import { checkChoices, checkIds, clientSignal, encodeChat, samplingOptions, tokensToGenerate } from "../prepare.js";
import { ChatFormat } from "../protocol/chat-format.js";
import { chatRequestSchema, checkStreamOptions, unsupportedChatFields } from "../protocol/requests.js";
import { chatResponseSchema } from "../protocol/responses.js";
import { headOf, openRequest } from "./open-request.js";

/** POST /v1/chat/completions */
export function chatRoute(app: FastifyInstance, context: ServerContext): void {
  const schema = documented("Answer a conversation", "createChatCompletion", {
    ...{ body: chatRequestSchema, answer: chatResponseSchema, streams: true },
  });
  app.post("/v1/chat/completions", { schema }, async (http, reply) => {
    const arrived = performance.now();
    const { engine, request, ignored, model } = openRequest(context, http, chatRequestSchema, unsupportedChatFields);
    const streaming = checkStreamOptions(request);
    const n = request.n ?? 1;
    checkChoices(context, 1, n, request.best_of);
    if (request.top_logprobs != null && request.top_logprobs > 0 && !request.logprobs) {
      throw new ApiError("invalid_value", "top_logprobs needs logprobs: true", { param: "top_logprobs" });
    }
    const param = request.max_completion_tokens != null ? "max_completion_tokens" : "max_tokens";
    const asked = request.max_completion_tokens ?? request.max_tokens;
    const ids = await encodeChat(context, engine, request.messages, {
      signal: clientSignal(reply),
      addGenerationPrompt: request.add_generation_prompt ?? true,
      variables: request.chat_template_kwargs ?? undefined,
      addSpecialTokens: request.add_special_tokens ?? false,
      completion: { param, tokens: asked ?? 1 },
    });
    checkIds(engine, ids, "messages");
    if (asked === 0) throw new ApiError("invalid_value", `${param}: must be at least 1`, { param });
    const maxTokens = tokensToGenerate(context, engine, ids.length, asked, { param, prompt: "messages" });
    const options = {
      ...samplingOptions(context, engine, request),
      ...(request.logprobs && { logprobs: request.top_logprobs ?? 0 }),
      maxTokens,
      n,
    };
    const format = new ChatFormat(headOf(context, "chatcmpl", model), {
      logprobs: request.logprobs ?? false,
      tokenIds: request.return_token_ids ?? false,
      tokenizer: engine.tokenizer,
    });
    const jobs = [{ prompt: ids, promptTokens: ids.length, options }];
    return answer(context, http, reply, { jobs, format, arrived, ignored, ...streaming });
  });
}
