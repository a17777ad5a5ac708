import { CodedError } from "../base/coded-error.js";

/** Codes of {@link ModelError}, for programs; the message is for people. */
export type ModelErrorCode =
  | "MODEL_CONFIG" // an invalid or unsupported config
  | "MODEL_PRESET" // a preset that does not exist
  | "MODEL_INPUT"; // ids, positions or documents that do not fit the model

/** Every error of lib/model. `code` is stable, `message` names the file, the key or the value. */
export class ModelError extends CodedError<ModelErrorCode> {}

/** An invalid or unsupported model config. The message names the key, the file and the allowed values. */
export class ModelConfigError extends ModelError {
  constructor(message: string, options?: ErrorOptions) {
    super("MODEL_CONFIG", message, options);
  }
}
