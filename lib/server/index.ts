/** An engine over HTTP: OpenAI's protocol, the `dllm` object, and what operators need. */
export { API_CODES, type ApiCode, ApiError, type ErrorBody } from "./api-error.js";
export { ServerError, type ServerErrorCode } from "./errors.js";
export { type LogDestination, LogOutput } from "./operations/log-output.js";
export { type ServerOptions, type ServerSettings, serverOptionsSchema } from "./options.js";
export type { ApiUsage, DllmStep, DllmTotals } from "./protocol/responses.js";
export type { ServedEngine } from "./served-engine.js";
export { type CreateServerOptions, Server } from "./server.js";
