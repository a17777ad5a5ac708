import { CodedError } from "../base/coded-error.js";
import { optionsParser } from "../base/options.js";

/** What a {@link ServerError} is about. */
export type ServerErrorCode =
  | "SERVER_OPTIONS" // options that are wrong, or open the server wider than was meant
  | "SERVER_FILE" // a key file or a TLS file that cannot be read or used
  | "SERVER_LISTEN"; // the address cannot be listened on

/** An error of starting a server. What a client is told is an {@link ApiError}. */
export class ServerError extends CodedError<ServerErrorCode> {}

/** Parses options of this layer by their schema. */
export const parseOptions = optionsParser(ServerError, "SERVER_OPTIONS");
