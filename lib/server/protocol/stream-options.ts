import { ApiError } from "../api-error.js";
import type { CompletionRequest } from "./requests.js";

/** What a request says of its stream. */
export interface Streaming {
  stream: boolean;
  includeUsage: boolean;
  continuousUsage: boolean;
  streamSteps: boolean;
}

/** @throws ApiError invalid_value: stream_options without stream */
export function checkStreamOptions(request: Pick<CompletionRequest, "stream" | "stream_options" | "dllm">): Streaming {
  const { stream_options: options } = request;
  const stream = request.stream ?? false;
  if (options != null && !stream) {
    throw new ApiError("invalid_value", "stream_options needs stream: true", { param: "stream_options" });
  }
  return {
    stream,
    includeUsage: options?.include_usage ?? false,
    continuousUsage: options?.continuous_usage_stats ?? false,
    streamSteps: request.dllm?.stream_steps ?? false,
  };
}
