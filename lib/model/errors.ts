import { CodedError } from "../base/coded-error.js";

/** What can go wrong in this layer, for programs; the message is for people. */
export type ModelErrorCode =
  | "MODEL_CONFIG" // a config with a wrong value, or one this decoder cannot run
  | "MODEL_PRESET" // a preset that does not exist
  | "MODEL_INPUT"; // ids, positions or documents the model cannot take

/** Every error of lib/model. `code` is stable, `message` names the file, the key or the value. */
export class ModelError extends CodedError<ModelErrorCode> {}

/** A model config that is wrong or not supported: which key, in which file, and what is allowed. */
export class ModelConfigError extends ModelError {
  constructor(message: string, options?: ErrorOptions) {
    super("MODEL_CONFIG", message, options);
  }
}
