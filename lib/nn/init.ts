import type { Generator, Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { checkOptions } from "../torch/options.js";
import { NnError } from "./errors.js";

/**
 * Fills a tensor with samples of N(mean, std^2), drawn on the CPU in float32 and then converted: the same generator
 * gives the same weights on every device. Meta tensors are unchanged.
 */
export function normal_(tensor: Tensor, options: { mean?: number; std?: number; generator?: Generator } = {}): Tensor {
  options = checkOptions("normal_", options, ["mean", "std", "generator"]);
  const { mean = 0, std = 1, generator } = options;
  return fill(tensor, (host) => torch.ops.aten.normal_(host, mean, std, { generator }));
}

/** Fills a tensor with samples of U(low, high), drawn on the CPU in float32 and then converted. */
export function uniform_(tensor: Tensor, options: { low?: number; high?: number; generator?: Generator } = {}): Tensor {
  options = checkOptions("uniform_", options, ["low", "high", "generator"]);
  const { low = 0, high = 1, generator } = options;
  return fill(tensor, (host) => torch.ops.aten.uniform_(host, low, high, { generator }));
}

/**
 * PyTorch's default for linear layers: U(-1/sqrt(fanIn), 1/sqrt(fanIn)), which is kaiming_uniform_ with a = sqrt(5).
 * `fanIn` defaults to the last dimension.
 */
export function linearUniform_(tensor: Tensor, options: { fanIn?: number; generator?: Generator } = {}): Tensor {
  options = checkOptions("linearUniform_", options, ["fanIn", "generator"]);
  const { fanIn = tensor.size(-1), generator } = options;
  const bound = 1 / Math.sqrt(fanIn);
  return uniform_(tensor, { low: -bound, high: bound, generator });
}

/** Fills a tensor with one number. */
export function constant_(tensor: Tensor, value: number): Tensor {
  torch.noGrad(() => tensor.fill_(value));
  return tensor;
}

/** The standard deviation sqrt(2 / (5 d)) for width d ("small init"); for d = 4096 it is Seed-Coder's 0.00988. */
export function smallInit(width: number): number {
  if (!(width > 0)) throw new NnError("NN_ARGUMENT", `smallInit: width must be positive, got ${width}`);
  return Math.sqrt(2 / (5 * width));
}

function fill(tensor: Tensor, draw: (host: Tensor) => void): Tensor {
  if (tensor.device === "meta") return tensor;
  torch.scope(() =>
    torch.noGrad(() => {
      const direct = tensor.device === "cpu" && tensor.dtype === "float32";
      const host = direct ? tensor : torch.empty(tensor.shape);
      draw(host);
      if (!direct) tensor.copy_(host);
    }),
  );
  return tensor;
}
