import type { Tensor } from "../torch/index.js";

/**
 * Which hyper-rectangle of a global tensor a local tensor is: in dimension d the indices from `offset[d]` up to, not
 * including, `offset[d] + size[d]`. A process that is alone has whole tensors. A slice may be empty.
 */
export interface TensorSlice {
  /** Of the global tensor. */
  shape: readonly number[];
  offset: readonly number[];
  size: readonly number[];
}

/** A tensor of this process, and what part it is of which global tensor. */
export interface LocalTensor {
  /** The parameter's name, or `<parameter>.<slot>` for an optimiser's state. */
  name: string;
  /** Its shape is the slice's size. */
  tensor: Tensor;
  slice: TensorSlice;
  /** Of several ranks that hold the same slice one owns it: the one that writes it to checkpoints. */
  owned: boolean;
}

/** The slice that is the whole tensor. */
export function wholeSlice(shape: readonly number[]): TensorSlice {
  return { shape: [...shape], offset: shape.map(() => 0), size: [...shape] };
}

/** A tensor of a process that is alone. */
export function wholeTensor(name: string, tensor: Tensor): LocalTensor {
  return { name, tensor, slice: wholeSlice(tensor.shape), owned: true };
}

export function isWhole({ shape, size }: TensorSlice): boolean {
  return shape.every((length, d) => size[d] === length);
}

/** The number of elements in a shape or a size. */
export function volume(size: readonly number[]): number {
  return size.reduce((product, length) => product * length, 1);
}

/** Why something is not a slice; undefined if it is one. */
export function sliceProblem({ shape, offset, size }: TensorSlice): string | undefined {
  if (offset.length !== shape.length || size.length !== shape.length) {
    return `offset [${offset}] and size [${size}] are of other dimensions than shape [${shape}]`;
  }
  const isIndex = (value: number) => Number.isInteger(value) && value >= 0;
  for (const [d, length] of shape.entries()) {
    if (isIndex(offset[d]) && isIndex(size[d]) && isIndex(length) && offset[d] + size[d] <= length) continue;
    return `offset [${offset}] and size [${size}] do not lie in shape [${shape}]`;
  }
  return undefined;
}

/** What two slices of the same global tensor share, in global indices; null if that is nothing. */
export function overlap(a: TensorSlice, b: TensorSlice): TensorSlice | null {
  const offset = a.offset.map((begin, d) => Math.max(begin, b.offset[d]));
  const size = offset.map((begin, d) => Math.min(a.offset[d] + a.size[d], b.offset[d] + b.size[d]) - begin);
  return size.some((length) => length <= 0) ? null : { shape: a.shape, offset, size };
}

/**
 * Two slices that share an element, or how many elements all of them leave out; undefined if every element of the global
 * tensor is in exactly one.
 */
export function coverProblem(shape: readonly number[], slices: readonly TensorSlice[]): string | undefined {
  const full = slices.filter(({ size }) => volume(size) > 0);
  full.sort((a, b) => (a.offset[0] ?? 0) - (b.offset[0] ?? 0));
  for (const [i, slice] of full.entries()) {
    const end = shape.length > 0 ? slice.offset[0] + slice.size[0] : 1;
    // In the order of the first dimension only the next few can overlap.
    for (let j = i + 1; j < full.length && (full[j].offset[0] ?? 0) < end; j++) {
      if (overlap(slice, full[j])) return `slices ${shown(slice)} and ${shown(full[j])} overlap`;
    }
  }
  const missing = volume(shape) - full.reduce((sum, { size }) => sum + volume(size), 0);
  return missing === 0 ? undefined : `${missing} of its ${volume(shape)} elements are in no slice`;
}

function shown({ offset, size }: TensorSlice): string {
  return `[${offset.map((begin, d) => `${begin}:${begin + size[d]}`).join(", ")}]`;
}

/**
 * The part `wanted` (in global indices, inside `slice`) of a local tensor, as a view. To be called in a scope.
 */
export function viewOf(tensor: Tensor, slice: TensorSlice, wanted: TensorSlice): Tensor {
  let view = tensor;
  for (const [d, begin] of wanted.offset.entries()) {
    const isAll = begin === slice.offset[d] && wanted.size[d] === slice.size[d];
    if (!isAll) view = view.narrow(d, begin - slice.offset[d], wanted.size[d]);
  }
  return view;
}
