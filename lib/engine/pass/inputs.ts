import type { Tensor } from "../../torch/index.js";
import * as torch from "../../torch/index.js";

/** What a pass needs on the device: lists of integers by name, each below 2^31. */
export type IntegerLists = Readonly<Record<string, Int32Array>>;

/** Those lists there, as tensors that share one memory. */
export interface PassTensors {
  int32(name: string): Tensor;
  int64(name: string): Tensor;
}

/** The lists one behind the other, so that one transfer takes them all. */
export function pack(lists: IntegerLists): Int32Array {
  const all = Object.values(lists);
  const packed = new Int32Array(all.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const list of all) {
    packed.set(list, at);
    at += list.length;
  }
  return packed;
}

/** The lists in a packed int32 tensor. */
export function unpack(packed: Tensor, lists: IntegerLists): PassTensors {
  const names = Object.keys(lists);
  const lengths = Object.values(lists).map(({ length }) => length);
  const split = (tensor: Tensor) => {
    const tensors = tensor.split(lengths) as Tensor[];
    return (name: string) => tensors[names.indexOf(name)];
  };
  return { int32: split(packed), int64: split(packed.to({ dtype: "int64" })) };
}

/** Packed lists in host memory from which a copy to the device waits for nothing. */
export function stage(lists: IntegerLists, device: string): Tensor {
  return torch.tensor(pack(lists), { pinMemory: device.startsWith("cuda") });
}

/** The lists on the device, by one transfer. */
export function upload(lists: IntegerLists, device: string): PassTensors {
  return unpack(torch.tensor(pack(lists), { device, pinMemory: device.startsWith("cuda") }), lists);
}
