import { TorchError } from "./errors.js";

/** A range of one dimension, as `start:end:step` in Python. Made by {@link slice}. */
export class Slice {
  constructor(
    readonly start: number | null,
    readonly end: number | null,
    readonly step: number,
  ) {}
}

/** `slice()` is `:`, `slice(2)` is `2:`, `slice(null, -1)` is `:-1`, `slice(0, 10, 2)` is `0:10:2`. Steps are positive. */
export function slice(start: number | null = null, end: number | null = null, step = 1): Slice {
  if (!Number.isInteger(step) || step < 1)
    throw new TorchError("TORCH_VALUE", `slice: step ${step} must be a positive integer`);
  for (const bound of [start, end])
    if (bound !== null && !Number.isInteger(bound))
      throw new TorchError("TORCH_ARGUMENT", `slice: ${String(bound)} must be an integer or null`);
  return new Slice(start, end, step);
}
