import { describe, shown } from "./describe.js";
import type { Scalar } from "./dtype.js";
import { asTorchError, TorchError } from "./errors.js";
import { native } from "./native.js";
import { Tensor, wrap } from "./tensor.js";

/** A range of one dimension, as `start:end:step` in Python. Made by {@link slice}. */
export class Slice {
  constructor(
    readonly start: number | null,
    readonly end: number | null,
    readonly step: number,
  ) {}

  [shown](): string {
    return `slice(${this.start}, ${this.end}, ${this.step})`;
  }
}

/**
 * `slice()` is `:`, `slice(2)` is `2:`, `slice(null, -1)` is `:-1`, `slice(0, 10, 2)` is `0:10:2`. Steps are positive.
 */
export function slice(start: number | null = null, end: number | null = null, step = 1): Slice {
  if (!Number.isInteger(step) || step < 1)
    throw new TorchError("TORCH_VALUE", `slice: step ${step} must be a positive integer`);
  for (const bound of [start, end])
    if (bound !== null && !Number.isInteger(bound))
      throw new TorchError("TORCH_ARGUMENT", `slice: ${String(bound)} must be an integer or null`);
  return new Slice(start, end, step);
}

/**
 * One item of an index: a number, a {@link slice}, null (a new dimension), "...", a boolean (a new dimension of size 1
 * or 0), or a tensor of integers or booleans.
 */
export type Index = number | Slice | null | "..." | boolean | Tensor;

// Must match native/indexing.cc: an index takes four numbers of scratch.
enum Kind {
  Integer,
  Slice,
  NewDimension,
  Ellipsis,
  Boolean,
  Tensor,
}
const width = 4;

// Python's slices accept any integer; values beyond these limits are equivalent to them.
const clip = (bound: number | null) =>
  bound === null ? Number.NaN : Math.max(-Number.MAX_SAFE_INTEGER, Math.min(Number.MAX_SAFE_INTEGER, bound));

/** Writes the indices to scratch. */
function encode(operator: string, given: readonly Index[]): number {
  const { scratch } = native;
  const indices = [...given]; // read before scratch is written: a getter may call torch
  if (indices.length * width > scratch.length) throw new TorchError("TORCH_INDEX", `${operator}: too many indices`);
  for (let i = 0, at = 0; i < indices.length; i++, at += width) {
    const index = indices[i];
    if (typeof index === "number") {
      if (!Number.isSafeInteger(index))
        throw new TorchError("TORCH_ARGUMENT", `${operator}: index ${i} is ${index}, expected an integer`);
      scratch[at] = Kind.Integer;
      scratch[at + 1] = index;
    } else if (index instanceof Slice) {
      scratch[at] = Kind.Slice;
      scratch[at + 1] = clip(index.start);
      scratch[at + 2] = clip(index.end);
      scratch[at + 3] = clip(index.step);
    } else if (index instanceof Tensor) {
      scratch[at] = Kind.Tensor;
      scratch[at + 1] = index.handle;
    } else if (index === null) {
      scratch[at] = Kind.NewDimension;
    } else if (index === "...") {
      scratch[at] = Kind.Ellipsis;
    } else if (typeof index === "boolean") {
      scratch[at] = Kind.Boolean;
      scratch[at + 1] = index ? 1 : 0;
    } else {
      throw new TorchError(
        "TORCH_ARGUMENT",
        `${operator}: index ${i} (${String(index)}) is not a number, slice, null, "...", boolean or tensor`,
      );
    }
  }
  if (indices.indexOf("...") !== indices.lastIndexOf("..."))
    throw new TorchError("TORCH_INDEX", `${operator}: "..." appears twice`);
  return indices.length;
}

/** `self[indices]` of Python. */
export function index(self: Tensor, indices: readonly Index[]): Tensor {
  const count = encode("index", indices);
  try {
    return wrap(native.index(self.handle, count));
  } catch (error) {
    throw asTorchError(error, "index", () => [self, ...indices].map(describe).join(", "));
  }
}

/** `self[indices] = value` of Python, or `+=` with `accumulate`. */
export function indexPut(self: Tensor, indices: readonly Index[], value: Tensor | Scalar, accumulate: boolean): void {
  const count = encode("indexPut_", indices);
  const isTensor = value instanceof Tensor;
  try {
    native.indexPut(self.handle, count, isTensor ? value.handle : value, isTensor, accumulate);
  } catch (error) {
    throw asTorchError(error, "indexPut_", () => [self, indices, value].map(describe).join(", "));
  }
}
