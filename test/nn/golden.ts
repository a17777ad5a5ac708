import { fileURLToPath } from "node:url";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";

/** Path of a fixture. */
export function fixture(path: string): string {
  return fileURLToPath(new URL(`../fixtures/${path}`, import.meta.url));
}

/** All tensors of a safetensors fixture, copied out of the file, with its metadata. */
export function golden(path: string): { tensors: Record<string, Tensor>; metadata: Record<string, string> } {
  using file = torch.openSafetensors(fixture(path));
  const tensors = Object.fromEntries(file.keys().map((name) => [name, file.get(name).clone()]));
  return { tensors, metadata: file.metadata };
}

/** The largest absolute difference of two tensors, in float64. */
export function difference(a: Tensor, b: Tensor): number {
  if (a.shape.join() !== b.shape.join()) throw new Error(`shapes differ: [${a.shape}] and [${b.shape}]`);
  return torch.scope(() => (a.numel() === 0 ? 0 : a.detach().double().sub(b.detach().double()).abs().amax().item()));
}
