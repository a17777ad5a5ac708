/** An engine over HTTP: OpenAI's protocol, the `dllm` object, and what operators need. */

export type { ServedEngine } from "./context.js";
export { API_CODES, type ApiCode, ApiError, type ErrorBody, ServerError, type ServerErrorCode } from "./errors.js";
export { type LogDestination, LogOutput } from "./operations/log-output.js";
export { type ServerOptions, type ServerSettings, serverOptionsSchema } from "./options.js";
export type { ApiUsage, DllmStep, DllmTotals } from "./protocol/responses.js";
export { type CreateServerOptions, Server } from "./server.js";
