import { EngineError, type EngineErrorCode } from "../engine/index.js";
import { TokenizerError, type TokenizerErrorCode } from "../tokenizer/index.js";
import { type ApiCode, ApiError } from "./api-error.js";

/** Of an error whose `details` name no limit of {@link LIMITS}. */
const CODES: Record<EngineErrorCode, ApiCode> = {
  ENGINE_OPTIONS: "invalid_value",
  ENGINE_PROMPT: "invalid_value",
  ENGINE_TOO_LONG: "context_length_exceeded",
  ENGINE_QUEUE_FULL: "queue_full",
  ENGINE_TIMEOUT: "request_timeout",
  ENGINE_CLOSED: "engine_unavailable",
  ENGINE_WORKER: "engine_failed",
  ENGINE_MODEL: "engine_failed",
  ENGINE_INTERNAL: "engine_failed",
};

/** By the limit that was reached. */
const LIMITS: Partial<Record<EngineErrorCode, Record<string, ApiCode>>> = {
  ENGINE_QUEUE_FULL: { requests: "queue_full", tokens: "queue_tokens_full" },
  ENGINE_TIMEOUT: { queue: "queue_timeout", request: "request_timeout" },
};

/** What may be otherwise in a moment. */
const PASSING: ReadonlySet<ApiCode> = new Set([
  "queue_full",
  "queue_tokens_full",
  "queue_timeout",
  "engine_unavailable",
]);

/** What a client is told of the model's chat template. */
const TEMPLATE_CODES: Partial<Record<TokenizerErrorCode, ApiCode>> = {
  CHAT_TEMPLATE_MISSING: "chat_template_missing",
  CHAT_TEMPLATE_INVALID: "chat_template_invalid",
  CHAT_TEMPLATE_UNSUPPORTED: "chat_template_unsupported",
  CHAT_TEMPLATE_FAILED: "chat_template_failed",
};

/** What a client is told of an error; anything not foreseen is an internal error, without its details. */
export function toApiError(error: unknown, retryAfter: () => number): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof EngineError) {
    const code = LIMITS[error.code]?.[error.details.limit] ?? CODES[error.code];
    if (code === "engine_failed") {
      const message =
        error.code === "ENGINE_WORKER"
          ? "the engine failed while it worked on this request; it is started again, so another try may succeed"
          : "the engine failed while it worked on this request";
      return new ApiError(code, message, { cause: error });
    }
    return new ApiError(code, error.message, {
      cause: error,
      ...(PASSING.has(code) && { retryAfter: retryAfter() }),
      ...(error.code === "ENGINE_PROMPT" && { param: "prompt" }),
    });
  }
  if (error instanceof TokenizerError) {
    const message = error.message;
    const code = TEMPLATE_CODES[error.code];
    if (code) return new ApiError(code, message, { cause: error, param: "messages" });
    if (error.code === "TOKENIZER_TEXT")
      return new ApiError("invalid_value", message, { cause: error, param: "prompt" });
    if (error.code === "TOKENIZER_ID") return new ApiError("invalid_value", message, { cause: error, param: "tokens" });
  }
  return new ApiError("internal_error", "the server failed at this request", { cause: error });
}
