import type { Tensor } from "../torch/index.js";

/**
 * The hyper-rectangle of a global tensor that a local tensor holds: the indices [offset[d], offset[d] + size[d]) in
 * dimension d. In a single process slices are whole tensors. A slice may be empty.
 */
export interface TensorSlice {
  /** Shape of the global tensor. */
  shape: readonly number[];
  offset: readonly number[];
  size: readonly number[];
}

/** A tensor of this process, which is a slice of a global tensor. */
export interface LocalTensor {
  /** The parameter's name, or `<parameter>.<slot>` for optimizer state. */
  name: string;
  /** Its shape is the slice's size. */
  tensor: Tensor;
  slice: TensorSlice;
  /** Whether this rank owns the slice: one of the ranks with the same slice does, and writes it to checkpoints. */
  owned: boolean;
}

/** The slice that covers the whole tensor. */
export function wholeSlice(shape: readonly number[]): TensorSlice {
  return { shape: [...shape], offset: shape.map(() => 0), size: [...shape] };
}

/** A whole tensor, as in a single process. */
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

/** Why a slice is invalid; undefined if it is valid. */
export function sliceProblem({ shape, offset, size }: TensorSlice): string | undefined {
  if (offset.length !== shape.length || size.length !== shape.length) {
    return `offset [${offset}] and size [${size}] have another number of dimensions than shape [${shape}]`;
  }
  const isIndex = (value: number) => Number.isInteger(value) && value >= 0;
  for (const [d, length] of shape.entries()) {
    if (isIndex(offset[d]) && isIndex(size[d]) && isIndex(length) && offset[d] + size[d] <= length) continue;
    return `offset [${offset}] and size [${size}] are outside shape [${shape}]`;
  }
  return undefined;
}

/** The intersection of two slices of the same global tensor, in global indices; null if it is empty. */
export function overlap(a: TensorSlice, b: TensorSlice): TensorSlice | null {
  const offset = a.offset.map((begin, d) => Math.max(begin, b.offset[d]));
  const size = offset.map((begin, d) => Math.min(a.offset[d] + a.size[d], b.offset[d] + b.size[d]) - begin);
  return size.some((length) => length <= 0) ? null : { shape: a.shape, offset, size };
}

/**
 * A message about two overlapping slices or about missing elements; undefined if every element of the global tensor is
 * in exactly one slice.
 */
export function coverProblem(shape: readonly number[], slices: readonly TensorSlice[]): string | undefined {
  const full = slices.filter(({ size }) => volume(size) > 0);
  full.sort((a, b) => (a.offset[0] ?? 0) - (b.offset[0] ?? 0));
  for (const [i, slice] of full.entries()) {
    const end = shape.length > 0 ? slice.offset[0] + slice.size[0] : 1;
    // Sorted by the first dimension, only the next few slices can overlap.
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
 * The part `wanted` (in global indices, inside `slice`) of a local tensor, as a view. Call it inside a scope.
 */
export function viewOf(tensor: Tensor, slice: TensorSlice, wanted: TensorSlice): Tensor {
  let view = tensor;
  for (const [d, begin] of wanted.offset.entries()) {
    const isAll = begin === slice.offset[d] && wanted.size[d] === slice.size[d];
    if (!isAll) view = view.narrow(d, begin - slice.offset[d], wanted.size[d]);
  }
  return view;
}
