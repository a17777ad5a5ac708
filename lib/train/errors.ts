import { CodedError } from "../base/coded-error.js";
import { optionsParser } from "../base/options.js";

/** What can go wrong while training, for programs; the message is for people. */
export type TrainErrorCode =
  | "TRAIN_OPTIONS" // options of a stage, a curriculum or a run that are wrong or contradict each other
  | "TRAIN_FILE" // a curriculum file that cannot be read, or holds no curriculum
  | "TRAIN_RUN_EXISTS" // the folder holds a run already, and resuming was not asked for
  | "TRAIN_RUN_LOCKED" // another process trains in the folder
  | "TRAIN_RESUME_MISMATCH" // the checkpoint is of another model, curriculum or seed
  | "TRAIN_CHECKPOINT_CORRUPT" // no checkpoint of the run is whole
  | "TRAIN_CHECKPOINT_WRITE" // a checkpoint could not be written, and that ends the run
  | "TRAIN_OBJECTIVE" // an objective that fails or gives back something unusable
  | "TRAIN_DATA" // data that cannot be read, or that the model or the stage cannot use
  | "TRAIN_HOOK" // an evaluation or a sampling hook that fails or gives back something unusable
  | "TRAIN_NOT_FINITE"; // too many steps with a loss or gradients that are not numbers

/** Every error of lib/train. `code` is stable, `message` names the file, the key or the value. */
export class TrainError extends CodedError<TrainErrorCode> {}

/** Parses options of this layer by their schema. */
export const parseOptions = optionsParser(TrainError, "TRAIN_OPTIONS");
