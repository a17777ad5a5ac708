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
  // Half the bytes cross as int32; embedding and index operators want int64.
  return torch.tensor(packed, placement(device)).to({ dtype: "int64" }).split(lengths) as Tensor[];
}

/** Copies a float32 array to a device, [array.length]. */
export function uploadFloats(array: Float32Array, device: string): Tensor {
  return torch.tensor(array, placement(device));
}

// From page-locked memory the copy waits for nothing that the device still has to do.
function placement(device: string): { device: string; pinMemory: boolean } {
  return { device, pinMemory: device.startsWith("cuda") };
}

/**
 * How many rows of the last layer and the head to compute for `count` wanted tokens: that, rounded up. The number is
 * another one in each step, and libraries of matrix products compile and keep a kernel for each shape they meet.
 */
export function paddedRows(count: number): number {
  return count <= 128 ? 2 ** Math.ceil(Math.log2(Math.max(1, count))) : Math.ceil(count / 128) * 128;
}
