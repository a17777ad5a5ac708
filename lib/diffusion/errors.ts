import { CodedError } from "../base/coded-error.js";
import { optionsParser } from "../base/options.js";

/** What can go wrong in this layer, for programs; the message is for people. */
export type DiffusionErrorCode =
  | "DIFFUSION_NOISE" // a noise schedule that is not a schedule
  | "DIFFUSION_WARMUP" // a warmup that cannot ramp
  | "DIFFUSION_BATCH" // a batch that does not fit its own description
  | "DIFFUSION_OPTIONS"; // options that contradict each other or the model

/** Every error of lib/diffusion. `code` is stable, `message` names the value that is wrong. */
export class DiffusionError extends CodedError<DiffusionErrorCode> {}

/** Parses options of this layer by their schema. */
export const parseOptions = optionsParser(DiffusionError, "DIFFUSION_OPTIONS");
