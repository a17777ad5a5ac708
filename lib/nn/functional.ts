import type { DTypeLike, Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { checkArguments, checkOptions } from "../torch/options.js";

/** silu(x) = x * sigmoid(x), any shape. */
export function silu(x: Tensor, ...more: never[]): Tensor {
  checkArguments("silu", 1 + more.length, 1);
  return torch.silu(x);
}

/** GELU, exact or by tanh, any shape. */
export function gelu(x: Tensor, options: { approximate?: "none" | "tanh" } = {}, ...more: never[]): Tensor {
  checkArguments("gelu", 2 + more.length, 2);
  options = checkOptions("gelu", options, ["approximate"]);
  return torch.gelu(x, { approximate: options.approximate ?? "none" });
}

export interface SoftmaxOptions {
  /** Dtype that x is converted to first. */
  dtype?: DTypeLike;
}

/** Softmax over one dimension. */
export function softmax(x: Tensor, dim = -1, options: SoftmaxOptions = {}, ...more: never[]): Tensor {
  checkArguments("softmax", 3 + more.length, 3);
  options = checkOptions("softmax", options, ["dtype"]);
  return x.softmax(dim, options.dtype);
}

/** Logarithm of the softmax over one dimension. */
export function logSoftmax(x: Tensor, dim = -1, options: SoftmaxOptions = {}, ...more: never[]): Tensor {
  checkArguments("logSoftmax", 3 + more.length, 3);
  options = checkOptions("logSoftmax", options, ["dtype"]);
  return x.logSoftmax(dim, options.dtype);
}

/**
 * x W^T + b: x [..., in], weight [out, in], bias [out] (torch.nn.functional.linear).
 *
 * In float32 on the CPU, without a gradient and for few rows, a custom kernel is used whose result for a row is
 * bit-identical for every batch size.
 */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor | null): Tensor {
  return torch.ops.diffcoder.linear(x, weight, bias ?? null) as Tensor;
}

export interface EmbeddingOptions {
  /** Index of the row without a gradient; negative indices count from the end. */
  paddingIdx?: number;
  /** Rows with a larger norm are first scaled down to it, in place. */
  maxNorm?: number;
  /** The p of the norm for `maxNorm`; default 2. */
  normType?: number;
  /** Divides a row's gradient by the number of its occurrences in `ids`. Default false. */
  scaleGradByFreq?: boolean;
  /** Makes the table's gradient sparse. Default false. */
  sparse?: boolean;
}

/** Rows of a table: weight [n, d], ids int64 of any shape -> [..., d] (torch.nn.functional.embedding). */
export function embedding(weight: Tensor, ids: Tensor, options?: EmbeddingOptions): Tensor {
  if (options === undefined) return torch.embedding(weight, ids);
  options = checkOptions("embedding", options, ["paddingIdx", "maxNorm", "normType", "scaleGradByFreq", "sparse"]);
  const { paddingIdx, maxNorm, normType = 2, scaleGradByFreq = false, sparse = false } = options;
  const rows = weight.size(0);
  if (paddingIdx !== undefined && !(Number.isInteger(paddingIdx) && paddingIdx >= -rows && paddingIdx < rows))
    throw new torch.TorchError("TORCH_VALUE", `embedding: paddingIdx ${paddingIdx} is not one of the ${rows} rows`);
  if (maxNorm !== undefined)
    torch.noGrad(() => torch.ops.aten.embedding_renorm_(weight.detach(), ids.contiguous(), maxNorm, normType));
  const padding = paddingIdx === undefined ? -1 : paddingIdx < 0 ? paddingIdx + rows : paddingIdx;
  return torch.embedding(weight, ids, padding, scaleGradByFreq, sparse);
}

export interface CrossEntropyOptions {
  /** Weights of the classes, [v]. */
  weight?: Tensor | null;
  /** Default "mean". */
  reduction?: "none" | "mean" | "sum";
  /** Target that is ignored. Default -100. */
  ignoreIndex?: number;
  /** Share of the target, from 0 to 1, that is spread over all classes. Default 0. */
  labelSmoothing?: number;
}

const reductions = ["none", "mean", "sum"];

/**
 * Cross-entropy of logits [n, v] (or [v], [n, v, d1, ...]) and classes int64 [n], or probabilities of the logits' shape
 * (torch.nn.functional.cross_entropy). Prefer {@link linearCrossEntropy} for a language model's head: it does not
 * materialize the logits.
 * @throws TorchError TORCH_ARGUMENT for an unknown option or reduction
 */
export function crossEntropy(
  logits: Tensor,
  targets: Tensor,
  options: CrossEntropyOptions = {},
  ...more: never[]
): Tensor {
  checkArguments("crossEntropy", 3 + more.length, 3);
  options = checkOptions("crossEntropy", options, ["weight", "reduction", "ignoreIndex", "labelSmoothing"]);
  const { weight = null, reduction = "mean", ignoreIndex = -100, labelSmoothing = 0 } = options;
  const mode = reductions.indexOf(reduction);
  if (mode < 0)
    throw new torch.TorchError(
      "TORCH_ARGUMENT",
      `crossEntropy: reduction ${JSON.stringify(reduction)}is not one of ${reductions.join(", ")}`,
    );
  return torch.crossEntropyLoss(logits, targets, weight, mode, ignoreIndex, labelSmoothing);
}

/**
 * Cross-entropy of hidden [n, d] through a head weight [v, d]. The logits [n, v] are computed `chunkSize` rows at a
 * time and not kept.
 *
 * @param rowWeights float32 [n], weights of the rows; default 1
 * @returns loss = sum(rowWeights * nll), a differentiable float32 scalar, and nll float32 [n], detached
 */
export function linearCrossEntropy(
  hidden: Tensor,
  weight: Tensor,
  targets: Tensor,
  options: { rowWeights?: Tensor; chunkSize?: number } = {},
): { loss: Tensor; nll: Tensor } {
  options = checkOptions("linearCrossEntropy", options, ["rowWeights", "chunkSize"]);
  const { rowWeights, chunkSize = 1024 } = options;
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

/** The pre-norm residual step in one pass over memory: sum = x + residual, normed = rmsNorm(sum). */
export function addRmsNorm(x: Tensor, residual: Tensor, weight: Tensor, eps: number): [normed: Tensor, sum: Tensor] {
  return torch.ops.diffcoder.add_rms_norm(x, residual, weight, eps) as [Tensor, Tensor];
}

/** silu(gate) * up, for two tensors of equal shape. */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  return torch.ops.diffcoder.swiglu(gate, up) as Tensor;
}

/**
 * Rotary position embedding, Llama's "rotate half": pairs (i, i + d/2) are rotated by the position's angle.
 *
 * @param x [b, s, h, d]
 * @param cos float32 [s, d/2] or [b, s, d/2], as is `sin`
 */
export function rotary(x: Tensor, cos: Tensor, sin: Tensor): Tensor {
  return torch.ops.diffcoder.rotary(x, cos, sin) as Tensor;
}
