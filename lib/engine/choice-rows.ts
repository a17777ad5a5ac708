import type { DTypeLike, Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import type { Adjustments } from "./adjustments.js";

/** How a sequence chooses tokens. */
export interface RowSettings {
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  seed: number;
  /** How many of the likeliest tokens to report. */
  logprobs: number;
  entropy: boolean;
  /** Whether the mask is not a token to choose, as in denoising. */
  forbidMask: boolean;
  adjust?: Adjustments;
}

/** One row of logits. */
export interface ChoiceRow {
  settings: RowSettings;
  /** What the draw depends on, with the seed. */
  position: number;
  pass: number;
  /** A token whose logprob is wanted instead of a choice; -1: none. */
  candidate: number;
}

export interface RowChoice {
  id: number;
  /** Probability of the token: untempered and unfiltered, after adjustments. */
  confidence: number;
  /** ln of that probability; NaN when the row's logits are not numbers, or all are forbidden. */
  logprob: number;
  /** 0 unless asked for. */
  entropy: number;
  candidateLogprob: number;
  top?: { id: number; logprob: number }[];
}

/** What was chosen for a batch of rows. */
export interface Choices {
  choices: RowChoice[];
  /** ln sum exp of each row. */
  normaliser: Float64Array;
}

/** The numbers of the rows that want something. */
export function indicesOf(rows: readonly ChoiceRow[], wanted: (row: ChoiceRow) => boolean): number[] {
  return [...rows.keys()].filter((i) => wanted(rows[i]));
}

/** Numbers to the device, which the host does not wait for. */
export function toDevice(numbers: readonly number[], { device }: Tensor, dtype: DTypeLike): Tensor {
  return torch.tensor(numbers as number[], { dtype, device, pinMemory: device.startsWith("cuda") });
}

/** These rows of the logits; all of them without a copy. */
export function select(logits: Tensor, indices: readonly number[]): Tensor {
  if (indices.length === logits.size(0)) return logits;
  return logits.indexSelect(0, toDevice(indices, logits, "int64"));
}
