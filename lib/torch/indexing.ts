import { TorchError } from "./errors.js";
import { Operator } from "./operator.js";
import { Tensor } from "./tensor.js";

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
  if (!Number.isInteger(step) || step < 1) throw new TorchError("TORCH_VALUE", `slice: step ${step} must be a positive integer`);
  return new Slice(start, end, step);
}

/** One position of an index: a number, a {@link slice}, null (a new dimension), "..." or a tensor of integers or booleans. */
export type Index = number | Slice | null | "..." | Tensor;

const selectInt = new Operator("aten::select");
const sliceTensor = new Operator("aten::slice");
const unsqueeze = new Operator("aten::unsqueeze");
const indexTensor = new Operator("aten::index");
const indexPutOperator = new Operator("aten::index_put_");
const alias = new Operator("aten::alias");

/** Applies numbers, slices and new dimensions as views; what is left are index tensors by dimension. */
function view(self: Tensor, indices: readonly Index[]): { result: Tensor; tensors: (Tensor | null)[] } {
  const ndim = self.ndim;
  const consumed = indices.reduce<number>((sum, index) => {
    if (index === null || index === "...") return sum;
    return sum + (index instanceof Tensor && index.dtype === "bool" ? index.ndim : 1);
  }, 0);
  if (consumed > ndim) throw new TorchError("TORCH_INDEX", `index: too many indices for a tensor of dimension ${ndim}`);
  if (indices.filter((index) => index === "...").length > 1) throw new TorchError("TORCH_INDEX", 'index: "..." appears twice');
  let result = self;
  let dim = 0;
  const tensors: (Tensor | null)[] = [];
  for (const index of indices) {
    if (index === "...") {
      for (let skip = ndim - consumed; skip > 0; skip--) {
        tensors.push(null);
        dim++;
      }
    } else if (index === null) {
      result = unsqueeze.call([result, dim]) as Tensor;
      tensors.push(null);
      dim++;
    } else if (typeof index === "number") {
      result = selectInt.call([result, dim, index]) as Tensor;
    } else if (index instanceof Slice) {
      const whole = index.start === null && index.end === null && index.step === 1;
      if (!whole) result = sliceTensor.call([result, dim, index.start, index.end, index.step]) as Tensor;
      tensors.push(null);
      dim++;
    } else if (index instanceof Tensor) {
      tensors.push(index);
      dim += index.dtype === "bool" ? index.ndim : 1;
    } else {
      throw new TorchError("TORCH_ARGUMENT", `index: ${String(index)} is no number, slice, null, "..." or tensor`);
    }
  }
  return { result, tensors };
}

/** `self[indices]` of Python. */
export function index(self: Tensor, ...indices: Index[]): Tensor {
  const { result, tensors } = view(self, indices);
  if (tensors.some((tensor) => tensor !== null)) return indexTensor.call([result, trim(tensors)]) as Tensor;
  return result === self ? (alias.call([self]) as Tensor) : result;
}

/** `self[indices] = value` of Python, or `+=` with `accumulate`. */
export function indexPut(self: Tensor, indices: readonly Index[], value: Tensor | number, accumulate = false): Tensor {
  const { result, tensors } = view(self, indices);
  if (tensors.some((tensor) => tensor !== null)) {
    const values = typeof value === "number" ? result.newFull([], value) : value;
    indexPutOperator.call([result, trim(tensors), values, accumulate]);
  } else if (accumulate) {
    if (typeof value === "number") result.add_(value);
    else result.add_(value);
  } else if (typeof value === "number") result.fill_(value);
  else result.copy_(value);
  return self;
}

function trim(tensors: (Tensor | null)[]): (Tensor | null)[] {
  let end = tensors.length;
  while (end > 0 && tensors[end - 1] === null) end--;
  return tensors.slice(0, end);
}
