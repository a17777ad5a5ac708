import { DistributedError } from "../errors.js";
import type { TensorSlice } from "../tensor-slice.js";

/**
 * A slice of a slice, relative to the global tensor.
 *
 * @param outer which part of the global tensor is cut again
 * @param inner which part of that: its `shape` is the outer one's `size`
 * @throws DistributedError DISTRIBUTED_ARGUMENT
 */
export function composeSlices(outer: TensorSlice, inner: TensorSlice): TensorSlice {
  const fits = inner.shape.length === outer.size.length && inner.shape.every((length, d) => length === outer.size[d]);
  if (!fits) {
    const message = `a slice of a tensor of shape [${inner.shape}] is none of a slice of size [${outer.size}]`;
    throw new DistributedError("DISTRIBUTED_ARGUMENT", message);
  }
  return { shape: outer.shape, offset: outer.offset.map((begin, d) => begin + inner.offset[d]), size: inner.size };
}
