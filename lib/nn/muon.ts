import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { checkOptions } from "../torch/options.js";
import { NnError } from "./errors.js";
import { BucketedOptimizer, type ParameterGroup, type UpdateSlice } from "./optimizer.js";

/** Options of {@link Muon}, with PyTorch's names and defaults. */
export interface MuonOptions {
  /** Decay rate of the momentum; default 0.95. */
  momentum?: number;
  /** Default true. */
  nesterov?: boolean;
  /** Decoupled weight decay for groups that have none of their own; default 0.1. */
  weightDecay?: number;
  /** a, b and c of the iteration X <- aX + (b XX' + c (XX')^2) X; default [3.4445, -4.775, 2.0315]. */
  nsCoefficients?: [number, number, number];
  /** Iterations; default 5. */
  nsSteps?: number;
  /** Least Frobenius norm that an update is divided by; default 1e-7. */
  eps?: number;
  /**
   * Factor on the learning rate of an A x B matrix. "original": sqrt(max(1, A / B)). "match_rms_adamw": 0.2 sqrt(max(A, B)),
   * which gives updates of AdamW's size, so that both can have one learning rate. Default "original".
   */
  adjustLrFn?: "original" | "match_rms_adamw";
  /** Of the iteration. Default "bfloat16"; "float32" is faster on processors without bfloat16 instructions. */
  nsDtype?: "bfloat16" | "float32";
}

const OPTION_NAMES = [
  ...["momentum", "nesterov", "weightDecay", "nsCoefficients", "nsSteps", "eps", "adjustLrFn", "nsDtype"],
] as const;

/**
 * Muon (Jordan et al. 2024; torch.optim.Muon): the momentum of each matrix is orthogonalized by a Newton-Schulz iteration and
 * applied with decoupled weight decay. It is for the matrices of hidden layers; embeddings, heads, norms and biases go to
 * {@link AdamW}, beside it in a {@link CombinedOptimizer}. An update needs the whole matrix, so it is refused where
 * parameters are cut over processes. State slot: `momentum`; `master` with parameters that are not float32.
 */
export class Muon extends BucketedOptimizer {
  override readonly elementwise = false;
  readonly #options: Required<Omit<MuonOptions, "weightDecay">>;

  /**
   * @param parameters of two dimensions, or groups of them
   * @throws NnError NN_OPTIMIZER for a parameter that is not a matrix, and for options out of range
   */
  constructor(parameters: Iterable<readonly [string, Tensor]> | ParameterGroup[], options: MuonOptions = {}) {
    options = checkOptions("Muon", options, OPTION_NAMES);
    const { momentum = 0.95, nesterov = true, weightDecay = 0.1, nsSteps = 5, eps = 1e-7 } = options;
    const { nsCoefficients = [3.4445, -4.775, 2.0315], adjustLrFn = "original", nsDtype = "bfloat16" } = options;
    if (!(momentum >= 0)) throw new NnError("NN_OPTIMIZER", `momentum must not be negative, got ${momentum}`);
    if (!(weightDecay >= 0)) throw new NnError("NN_OPTIMIZER", `weightDecay must not be negative, got ${weightDecay}`);
    if (!(Number.isInteger(nsSteps) && nsSteps >= 1 && nsSteps < 100)) {
      throw new NnError("NN_OPTIMIZER", `nsSteps must be an integer from 1 to 99, got ${nsSteps}`);
    }
    super(parameters, ["momentum"], { weightDecay });
    for (const [name, { shape }] of this.parameters()) {
      if (shape.length === 2) continue;
      this.dispose();
      throw new NnError("NN_OPTIMIZER", `Muon takes matrices, but ${name} has the shape [${shape.join(", ")}]`);
    }
    this.#options = { momentum, nesterov, nsCoefficients, nsSteps, eps, adjustLrFn, nsDtype };
  }

  protected override update({ targets, gradients, slots, weightDecay }: UpdateSlice, lr: number): void {
    const { aten } = torch.ops;
    const { momentum, nesterov, adjustLrFn } = this.#options;
    aten._foreach_lerp_(slots.momentum, gradients, 1 - momentum);
    const directions = nesterov
      ? (aten._foreach_lerp(gradients, slots.momentum, momentum) as Tensor[])
      : slots.momentum;
    if (weightDecay !== 0) aten._foreach_mul_(targets, 1 - lr * weightDecay);
    // Matrices of one shape are iterated as one batch.
    for (const indices of sameShapes(targets)) {
      const [rows, columns] = targets[indices[0]].shape;
      const factor =
        adjustLrFn === "original" ? Math.sqrt(Math.max(1, rows / columns)) : 0.2 * Math.sqrt(Math.max(rows, columns));
      torch.scope(() => {
        const batch = torch.stack(indices.map((i) => directions[i]));
        const updates = newtonSchulz(batch, this.#options).to({ dtype: "float32" }).unbind(0);
        aten._foreach_add_(
          indices.map((i) => targets[i]),
          updates,
          { alpha: -lr * factor },
        );
      });
    }
  }
}

/** Indices of tensors, those of one shape together. */
function sameShapes(tensors: readonly Tensor[]): number[][] {
  const byShape = new Map<string, number[]>();
  for (const [i, { shape }] of tensors.entries()) {
    const key = shape.join();
    const indices = byShape.get(key);
    if (indices) indices.push(i);
    else byShape.set(key, [i]);
  }
  return [...byShape.values()];
}

/**
 * U V' of each matrix's singular value decomposition U S V', roughly: its singular values come out between about 0.7 and 1.2.
 *
 * @param batch [n, A, B]
 */
export function newtonSchulz(
  batch: Tensor,
  {
    nsCoefficients: [a, b, c],
    nsSteps,
    eps,
    nsDtype,
  }: Required<Pick<MuonOptions, "nsCoefficients" | "nsSteps" | "eps" | "nsDtype">>,
): Tensor {
  const [, rows, columns] = batch.shape;
  const isTall = rows > columns;
  let x = batch.to({ dtype: nsDtype });
  if (isTall) x = x.transpose(1, 2);
  // The spectral norm is at most the Frobenius norm.
  x = x.div(x.flatten(1).norm(2, 1).clamp(eps).view([-1, 1, 1]));
  for (let step = 0; step < nsSteps; step++) {
    const gram = x.bmm(x.transpose(1, 2));
    x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, { beta: b, alpha: c }), x, { beta: a });
  }
  return isTall ? x.transpose(1, 2) : x;
}
