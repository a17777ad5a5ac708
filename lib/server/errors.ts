import { CodedError } from "../base/coded-error.js";
import { optionsParser } from "../base/options.js";

/** What a {@link ServerError} is about. */
export type ServerErrorCode =
  | "SERVER_OPTIONS" // options that are wrong, or open the server wider than was meant
  | "SERVER_FILE" // a key file or a TLS file that cannot be read or used
  | "SERVER_LISTEN"; // the address cannot be listened on

/** An error when a server starts. Clients get an {@link ApiError}. */
export class ServerError extends CodedError<ServerErrorCode> {}

/** Parses options of this layer by their schema. */
export const parseOptions = optionsParser(ServerError, "SERVER_OPTIONS");

/** Every `code` a client can get, with its HTTP status and `type`. docs/serving.md explains each. */
export const API_CODES = {
  invalid_json: [400, "invalid_request_error"],
  invalid_value: [400, "invalid_request_error"],
  unknown_parameter: [400, "invalid_request_error"],
  unsupported_parameter: [400, "invalid_request_error"],
  context_length_exceeded: [400, "invalid_request_error"],
  chat_template_missing: [400, "invalid_request_error"],
  chat_template_invalid: [400, "invalid_request_error"],
  chat_template_unsupported: [400, "invalid_request_error"],
  chat_template_failed: [400, "invalid_request_error"],
  prompt_too_costly: [400, "invalid_request_error"],
  infilling_unsupported: [400, "invalid_request_error"],
  bad_request: [400, "invalid_request_error"],
  invalid_api_key: [401, "authentication_error"],
  model_not_found: [404, "invalid_request_error"],
  not_found: [404, "invalid_request_error"],
  method_not_allowed: [405, "invalid_request_error"],
  request_too_slow: [408, "invalid_request_error"],
  body_too_large: [413, "invalid_request_error"],
  unsupported_media_type: [415, "invalid_request_error"],
  headers_too_large: [431, "invalid_request_error"],
  internal_error: [500, "server_error"],
  engine_failed: [500, "server_error"],
  queue_full: [503, "overloaded_error"],
  queue_tokens_full: [503, "overloaded_error"],
  uploads_full: [503, "overloaded_error"],
  queue_timeout: [503, "overloaded_error"],
  draining: [503, "unavailable_error"],
  loading: [503, "unavailable_error"],
  engine_unavailable: [503, "unavailable_error"],
  request_timeout: [504, "timeout_error"],
} as const satisfies Record<string, readonly [status: number, type: string]>;

export type ApiCode = keyof typeof API_CODES;

/** What an error response holds: OpenAI's form. */
export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string };
}

export interface ApiErrorOptions extends ErrorOptions {
  /** The request's field that is at fault, as a path: `messages[0].content`. */
  param?: string;
  /** Seconds after which a client should retry; sent as Retry-After. */
  retryAfter?: number;
}

/** An error whose message is for the client. */
export class ApiError extends Error {
  readonly code: ApiCode;
  readonly param: string | undefined;
  readonly retryAfter: number | undefined;

  constructor(code: ApiCode, message: string, options: ApiErrorOptions = {}) {
    super(message, options);
    this.name = "ApiError";
    this.code = code;
    this.param = options.param;
    this.retryAfter = options.retryAfter;
  }

  get status(): number {
    return API_CODES[this.code][0];
  }

  toBody(): ErrorBody {
    const { message, code, param = null } = this;
    return { error: { message, type: API_CODES[code][1], param, code } };
  }
}
