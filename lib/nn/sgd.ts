import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { checkOptions } from "../torch/options.js";
import { NnError } from "./errors.js";
import { BucketedOptimizer, type ParameterGroup, type UpdateSlice } from "./optimizer.js";

/** Options of {@link SGD}. */
export interface SGDOptions {
  /** Default 0. */
  momentum?: number;
  /** Default false. */
  nesterov?: boolean;
  /** L2 penalty, added to the gradient as in torch.optim.SGD; default 0. */
  weightDecay?: number;
}

/** Stochastic gradient descent with momentum (torch.optim.SGD, no dampening). State slot: `momentum`. */
export class SGD extends BucketedOptimizer {
  readonly #momentum: number;
  readonly #nesterov: boolean;

  /** @param parameters `model.namedParameters()`, or groups as from {@link decayGroups} */
  constructor(parameters: Iterable<readonly [string, Tensor]> | ParameterGroup[], options: SGDOptions = {}) {
    options = checkOptions("SGD", options, ["momentum", "nesterov", "weightDecay"]);
    const { momentum = 0, nesterov = false, weightDecay = 0 } = options;
    if (!(momentum >= 0)) throw new NnError("NN_OPTIMIZER", `momentum must not be negative, got ${momentum}`);
    if (nesterov && momentum === 0) throw new NnError("NN_OPTIMIZER", "nesterov needs a momentum");
    super(parameters, momentum > 0 ? ["momentum"] : [], { weightDecay });
    this.#momentum = momentum;
    this.#nesterov = nesterov;
  }

  protected override update({ targets, gradients, slots, weightDecay }: UpdateSlice, lr: number): void {
    // A zero momentum buffer gives the same first step as PyTorch's uninitialized one.
    torch.ops.aten._fused_sgd_(targets, gradients, slots.momentum ?? [], {
      weight_decay: weightDecay,
      momentum: this.#momentum,
      lr,
      dampening: 0,
      nesterov: this.#nesterov,
      maximize: false,
      is_first_step: false,
    });
  }
}
