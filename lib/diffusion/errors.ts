import { CodedError } from "../base/coded-error.js";
import { optionsParser } from "../base/options.js";

/** Codes of {@link DiffusionError}, for programs; the message is for people. */
export type DiffusionErrorCode =
  | "DIFFUSION_NOISE" // an invalid noise schedule
  | "DIFFUSION_WARMUP" // a warmup without a reference norm
  | "DIFFUSION_BATCH" // a batch whose fields are inconsistent
  | "DIFFUSION_OPTIONS"; // options that are invalid or contradict each other or the model

/** Every error of lib/diffusion. `code` is stable, `message` names the value that is wrong. */
export class DiffusionError extends CodedError<DiffusionErrorCode> {}

/** Parses the options of this layer against a schema. */
export const parseOptions = optionsParser(DiffusionError, "DIFFUSION_OPTIONS");
