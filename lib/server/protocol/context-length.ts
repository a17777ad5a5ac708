import { ApiError } from "../api-error.js";

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
