import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";

/**
 * Copies several integer arrays to a device in one transfer.
 *
 * @returns one flat int64 tensor per array, views of one storage
 */
export function uploadIntegers(arrays: readonly Int32Array[], device: string): Tensor[] {
  const lengths = arrays.map((array) => array.length);
  const packed = new Int32Array(lengths.reduce((sum, length) => sum + length, 0));
  let at = 0;
  for (const array of arrays) {
    packed.set(array, at);
    at += array.length;
  }
  // int32 halves the transfer; embedding and index operators need int64.
  return torch.tensor(packed, placement(device)).to({ dtype: "int64" }).split(lengths) as Tensor[];
}

/** Copies an array to a device, as float32 [array.length]. */
export function uploadFloats(array: Float32Array, device: string): Tensor {
  return torch.tensor(array, placement(device));
}

// From page-locked memory the copy does not wait for the device's queue.
function placement(device: string): { device: string; pinMemory: boolean } {
  return { device, pinMemory: device.startsWith("cuda") };
}

/**
 * Number of rows of the last layer and the head to compute for `count` masked tokens: a power of two up to 128, then a
 * multiple of 128. The count differs in each step, and libraries of matrix products compile and keep a kernel for each new
 * shape.
 *
 * @returns at least `count`; the additional rows must be given weight 0
 */
export function paddedRows(count: number): number {
  return count <= 128 ? 2 ** Math.ceil(Math.log2(Math.max(1, count))) : Math.ceil(count / 128) * 128;
}
