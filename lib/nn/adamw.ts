import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { checkOptions } from "../torch/options.js";
import { NnError } from "./errors.js";
import { BucketedOptimizer, type ParameterGroup, type UpdateSlice } from "./optimizer.js";

/** Options of {@link AdamW}. */
export interface AdamWOptions {
  /** Decay rates of the two moments; default [0.9, 0.95]. */
  betas?: [number, number];
  /** Default 1e-8. */
  eps?: number;
  /** Decoupled weight decay of groups without their own value; default 0.1. */
  weightDecay?: number;
  /** true: moments, float32 weights and the update are on the host. Default false. */
  offload?: boolean;
  /** false: a few foreach operators instead of the fused kernel. Default true. */
  fused?: boolean;
}

/**
 * AdamW (Loshchilov and Hutter; torch.optim.AdamW): decoupled weight decay, bias-corrected moments, all parameters of
 * a group in one `_fused_adamw_` call. State slots: `expAvg`, `expAvgSq`; `master` with parameters that are not
 * float32.
 */
export class AdamW extends BucketedOptimizer {
  readonly #betas: [number, number];
  readonly #eps: number;
  readonly #fused: boolean;

  /** @param parameters `model.namedParameters()`, or groups as from {@link decayGroups} */
  constructor(parameters: Iterable<readonly [string, Tensor]> | ParameterGroup[], options: AdamWOptions = {}) {
    options = checkOptions("AdamW", options, ["betas", "eps", "weightDecay", "offload", "fused"]);
    const { betas = [0.9, 0.95], eps = 1e-8, weightDecay = 0.1, offload = false, fused = true } = options;
    for (const [i, beta] of betas.entries()) {
      if (!(beta >= 0 && beta < 1)) throw new NnError("NN_OPTIMIZER", `betas[${i}] must be in [0, 1), got ${beta}`);
    }
    if (!(eps >= 0)) throw new NnError("NN_OPTIMIZER", `eps must not be negative, got ${eps}`);
    super(parameters, ["expAvg", "expAvgSq"], { weightDecay, offload });
    this.#betas = betas;
    this.#eps = eps;
    this.#fused = fused;
  }

  protected override update(slice: UpdateSlice, lr: number, steps: number): void {
    if (this.#fused) this.#updateFused(slice, lr);
    else this.#updateForeach(slice, lr, steps);
  }

  #updateFused({ targets, gradients, slots, step, weightDecay }: UpdateSlice, lr: number): void {
    const [beta1, beta2] = this.#betas;
    const steps = targets.map(() => step);
    torch.ops.aten._fused_adamw_(targets, gradients, slots.expAvg, slots.expAvgSq, [], steps, {
      lr,
      beta1,
      beta2,
      weight_decay: weightDecay,
      eps: this.#eps,
      amsgrad: false,
      maximize: false,
    });
  }

  #updateForeach({ targets, gradients, slots, weightDecay }: UpdateSlice, lr: number, steps: number): void {
    const { aten } = torch.ops;
    const [beta1, beta2] = this.#betas;
    const { expAvg, expAvgSq } = slots;
    if (weightDecay !== 0) aten._foreach_mul_(targets, 1 - lr * weightDecay);
    aten._foreach_lerp_(expAvg, gradients, 1 - beta1);
    aten._foreach_mul_(expAvgSq, beta2);
    aten._foreach_addcmul_(expAvgSq, gradients, gradients, 1 - beta2);
    const denominators = aten._foreach_sqrt(expAvgSq);
    aten._foreach_div_(denominators, Math.sqrt(1 - beta2 ** steps));
    aten._foreach_add_(denominators, this.#eps);
    aten._foreach_addcdiv_(targets, expAvg, denominators, -lr / (1 - beta1 ** steps));
  }
}
