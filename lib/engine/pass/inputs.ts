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
  const wide = packed.to({ dtype: "int64" });
  const places = new Map<string, readonly [at: number, length: number]>();
  let at = 0;
  for (const [name, { length }] of Object.entries(lists)) {
    places.set(name, [at, length]);
    at += length;
  }
  const part = (tensor: Tensor) => (name: string) => tensor.narrow(0, ...(places.get(name) ?? ([0, 0] as const)));
  return { int32: part(packed), int64: part(wide) };
}

/** Packed lists in host memory from which a copy to the device waits for nothing. */
export function stage(lists: IntegerLists, device: string): Tensor {
  return torch.tensor(pack(lists), { pinMemory: device.startsWith("cuda") });
}

/** The lists on the device, by one transfer. */
export function upload(lists: IntegerLists, device: string): PassTensors {
  return unpack(torch.tensor(pack(lists), { device, pinMemory: device.startsWith("cuda") }), lists);
}
