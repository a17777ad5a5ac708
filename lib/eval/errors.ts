import { CodedError } from "../base/coded-error.js";
import { optionsParser } from "../base/options.js";

/** What can go wrong in an evaluation, for programs; the message is for people. */
export type EvaluationErrorCode =
  | "EVAL_OPTIONS" // options that are wrong or contradict each other, such as k above the number of samples
  | "EVAL_DATA" // a benchmark's file that is missing, is not what its authors publish, or has no tests
  | "EVAL_SANDBOX" // programs cannot be isolated here: no bubblewrap, or it cannot make namespaces
  | "EVAL_RUN_MISMATCH" // the folder holds samples of another model, benchmark or decoding
  | "EVAL_RESULTS" // a folder of results that cannot be read or written
  | "EVAL_MODEL"; // the model or the server cannot generate what the benchmark asks for

/** Every error of lib/eval. `code` is stable, `message` names the file, the option or the problem. */
export class EvaluationError extends CodedError<EvaluationErrorCode> {}

/** Parses options of this layer by their schema. */
export const parseOptions = optionsParser(EvaluationError, "EVAL_OPTIONS");
