import { CodedError } from "../base/coded-error.js";
import { optionsParser } from "../base/options.js";

/** Codes of {@link TrainError}, for programs; the message is for people. */
export type TrainErrorCode =
  | "TRAIN_OPTIONS" // invalid or contradictory options of a stage, a curriculum or a run
  | "TRAIN_FILE" // a curriculum file that cannot be read or does not export a curriculum
  | "TRAIN_RUN_EXISTS" // the folder already holds a run, and neither resume nor overwrite is set
  | "TRAIN_RUN_LOCKED" // another process is training in the folder
  | "TRAIN_RESUME_MISMATCH" // the checkpoint belongs to another model, curriculum or seed
  | "TRAIN_CHECKPOINT_CORRUPT" // every checkpoint of the run is damaged
  | "TRAIN_CHECKPOINT_WRITE" // a checkpoint could not be written, and the run ended because of it
  | "TRAIN_OBJECTIVE" // an objective that throws or returns an invalid result
  | "TRAIN_DATA" // data that cannot be read, or that does not fit the model or the stage
  | "TRAIN_HOOK" // an evaluation or sampling hook that throws or returns an invalid result
  | "TRAIN_NOT_FINITE"; // too many steps in a row with a loss or gradients that are not finite

/** Every error of lib/train. `code` is stable, `message` names the file, the key or the value. */
export class TrainError extends CodedError<TrainErrorCode> {}

/** Parses the options of this layer against a schema. */
export const parseOptions = optionsParser(TrainError, "TRAIN_OPTIONS");
