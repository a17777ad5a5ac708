import { CodedError } from "../base/coded-error.js";

/** Codes of {@link CheckpointError}, for programs; the message is for people. */
export type CheckpointErrorCode =
  | "CHECKPOINT_MISSING" // no checkpoint, or one of its files is missing
  | "CHECKPOINT_CORRUPT" // a file that is truncated, or is not valid JSON or safetensors
  | "CHECKPOINT_MISMATCH" // tensors that do not fit the config
  | "CHECKPOINT_WRITE"; // saving failed; an existing checkpoint is unchanged

/** A checkpoint that cannot be read or written. `code` is stable, `message` names the file and the problem. */
export class CheckpointError extends CodedError<CheckpointErrorCode> {}
