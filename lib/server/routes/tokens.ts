import type { FastifyInstance } from "fastify";
import type { ServerContext } from "../context.js";
import { ApiError } from "../errors.js";
import { documented } from "../openapi.js";
import { checkIds, clientSignal, decodeIds, encodeChat, encodeText, namesOf } from "../prepare.js";
import { detokenizeRequestSchema, tokenizeRequestSchema } from "../protocol/requests.js";
import { textSchema, tokensSchema } from "../protocol/responses.js";
import { openRequest } from "./open-request.js";

/** POST /tokenize and /detokenize */
export function tokenRoutes(app: FastifyInstance, context: ServerContext): void {
  const tokenize = documented("Ids of a text or a conversation", "createTokens", {
    ...{ body: tokenizeRequestSchema, answer: tokensSchema },
  });
  app.post("/tokenize", { schema: tokenize }, async (http, reply) => {
    const { engine, request } = openRequest(context, http, tokenizeRequestSchema);
    const { prompt, messages } = request;
    const signal = clientSignal(reply);
    if ((prompt == null) === (messages == null)) {
      throw new ApiError("invalid_value", "exactly one of prompt and messages is needed", { param: "prompt" });
    }
    const tokens =
      messages != null
        ? await encodeChat(context, engine, messages, {
            signal,
            addGenerationPrompt: request.add_generation_prompt ?? true,
            variables: request.chat_template_kwargs ?? undefined,
            addSpecialTokens: request.add_special_tokens ?? false,
          })
        : await encodeText(context, engine, prompt ?? "", {
            ...{ param: "prompt", addSpecialTokens: request.add_special_tokens ?? true, signal },
          });
    return {
      tokens,
      count: tokens.length,
      max_model_len: engine.model.maxLength,
      token_strs: request.return_token_strs ? await namesOf(context, tokens, signal) : null,
    };
  });
  const detokenize = documented("Text of ids", "createText", { body: detokenizeRequestSchema, answer: textSchema });
  app.post("/detokenize", { schema: detokenize }, async (http, reply) => {
    const { engine, request } = openRequest(context, http, detokenizeRequestSchema);
    if (request.tokens.length > 0) checkIds(engine, request.tokens, "tokens");
    return { prompt: await decodeIds(context, request.tokens, clientSignal(reply)) };
  });
}
