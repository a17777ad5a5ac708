import { CodedError } from "../base/coded-error.js";
import { optionsParser } from "../base/options.js";

/** What can go wrong in the engine, for programs; the message is for people. */
export type EngineErrorCode =
  | "ENGINE_OPTIONS" // options that are wrong or contradict each other or the model
  | "ENGINE_PROMPT" // a prompt that cannot be continued: empty, ids outside the vocabulary, the mask in it
  | "ENGINE_TOO_LONG" // prompt and output exceed the model's context or the engine's memory
  | "ENGINE_QUEUE_FULL" // the limit of queued requests or tokens is reached: try later
  | "ENGINE_TIMEOUT" // waited longer in the queue, or took longer, than the engine allows
  | "ENGINE_CLOSED" // the engine is closed, or closes
  | "ENGINE_WORKER" // the thread or process that runs the model died; it is started again
  | "ENGINE_MODEL" // the model cannot be loaded, or its logits are not numbers
  | "ENGINE_INTERNAL"; // a fault of the engine itself

/** Every error of lib/engine. `code` is stable, `message` names the value that is wrong. */
export class EngineError extends CodedError<EngineErrorCode> {
  /**
   * `limit`: the one that was reached. ENGINE_QUEUE_FULL: "requests" or "tokens", with what of it is `used` and what is
   * `allowed`. ENGINE_TIMEOUT: "queue" (the wait) or "request" (altogether).
   */
  readonly details: Readonly<Record<string, string | number>>;

  constructor(
    code: EngineErrorCode,
    message: string,
    options: { cause?: unknown; details?: EngineError["details"] } = {},
  ) {
    super(code, message, options.cause === undefined ? undefined : { cause: options.cause });
    this.details = options.details ?? {};
  }
}

/** Parses options of this layer by their schema. */
export const parseOptions = optionsParser(EngineError, "ENGINE_OPTIONS");
