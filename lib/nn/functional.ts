import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";

/** silu(x) = x * sigmoid(x), any shape. */
export function silu(x: Tensor): Tensor {
  return torch.silu(x);
}

/** GELU, exact or by tanh, any shape. */
export function gelu(x: Tensor, { approximate = "none" }: { approximate?: "none" | "tanh" } = {}): Tensor {
  return torch.gelu(x, { approximate });
}

/** Softmax over one dimension. */
export function softmax(x: Tensor, dim = -1): Tensor {
  return x.softmax(dim);
}

/** Logarithm of the softmax over one dimension. */
export function logSoftmax(x: Tensor, dim = -1): Tensor {
  return x.logSoftmax(dim);
}

/**
 * x W^T + b: x [..., in], weight [out, in], bias [out] (torch.nn.functional.linear).
 *
 * In float32 on the CPU, where no gradient is wanted, a kernel of our own for few rows: each row's numbers are then the
 * same, bit for bit, whatever rows are beside it.
 */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor | null): Tensor {
  return torch.ops.diffcoder.linear(x, weight, bias ?? null) as Tensor;
}

/** Rows of a table: weight [n, d], ids int64 of any shape -> [..., d]. */
export function embedding(weight: Tensor, ids: Tensor): Tensor {
  return torch.embedding(weight, ids);
}

/**
 * Cross-entropy of logits [n, v] and classes int64 [n] (torch.nn.functional.cross_entropy).
 * Prefer {@link linearCrossEntropy} for a language model's head: it never holds the logits.
 */
export function crossEntropy(
  logits: Tensor,
  targets: Tensor,
  { reduction = "mean", ignoreIndex = -100 }: { reduction?: "none" | "mean" | "sum"; ignoreIndex?: number } = {},
): Tensor {
  const mode = { none: 0, mean: 1, sum: 2 }[reduction];
  return torch.crossEntropyLoss(logits, targets, null, mode, ignoreIndex);
}

/**
 * Cross-entropy of hidden [n, d] through a head weight [v, d] without the logits [n, v]: `chunkSize` rows at a time.
 *
 * @param rowWeights float32 [n], factors of the rows; default 1
 * @returns loss = sum(rowWeights * nll), a float32 scalar that can be differentiated, and nll float32 [n], detached
 */
export function linearCrossEntropy(
  hidden: Tensor,
  weight: Tensor,
  targets: Tensor,
  { rowWeights, chunkSize = 1024 }: { rowWeights?: Tensor; chunkSize?: number } = {},
): { loss: Tensor; nll: Tensor } {
  const [loss, nll] = torch.ops.diffcoder.linear_cross_entropy(
    hidden,
    weight,
    targets,
    rowWeights ?? null,
    chunkSize,
  ) as [Tensor, Tensor];
  return { loss, nll };
}

/** Root mean square norm over the last dimension d, computed in float32: x / sqrt(mean(x^2) + eps) * weight [d]. */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number): Tensor {
  return torch.ops.diffcoder.rms_norm(x, weight, eps) as Tensor;
}

/** One pass over memory for the pre-norm residual step: sum = x + residual, normed = rmsNorm(sum). */
export function addRmsNorm(x: Tensor, residual: Tensor, weight: Tensor, eps: number): [normed: Tensor, sum: Tensor] {
  return torch.ops.diffcoder.add_rms_norm(x, residual, weight, eps) as [Tensor, Tensor];
}

/** silu(gate) * up, both of one shape. */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  return torch.ops.diffcoder.swiglu(gate, up) as Tensor;
}

/**
 * Rotary position embedding, Llama's "rotate half": pairs (i, i + d/2) turn by the position's angle.
 *
 * @param x [b, s, h, d]
 * @param cos float32 [s, d/2] or [b, s, d/2], as is `sin`
 */
export function rotary(x: Tensor, cos: Tensor, sin: Tensor): Tensor {
  return torch.ops.diffcoder.rotary(x, cos, sin) as Tensor;
}
