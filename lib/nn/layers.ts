import type { Generator, Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { addRmsNorm, embedding, linear, rmsNorm } from "./functional.js";
import { constant_, linearUniform_, normal_ } from "./init.js";
import { type FactoryOptions, Module, parameter } from "./module.js";

/** Device, dtype and random generator of a new layer. `init: false` leaves the memory uninitialized. */
export interface LayerOptions extends FactoryOptions {
  generator?: Generator;
  init?: boolean;
}

function allocate(shape: number[], { dtype = "float32", device = "cpu" }: FactoryOptions): Tensor {
  return parameter(torch.empty(shape, { dtype, device }));
}

/** y = x W^T + b for x [..., in] (torch.nn.Linear, with its initialization). */
export class Linear extends Module {
  /** [out, in] */
  weight: Tensor;
  /** [out], or null */
  bias: Tensor | null;

  constructor(inFeatures: number, outFeatures: number, options: LayerOptions & { bias?: boolean } = {}) {
    super();
    const { bias = true, init = true, generator } = options;
    this.weight = allocate([outFeatures, inFeatures], options);
    this.bias = bias ? allocate([outFeatures], options) : null;
    if (init) {
      linearUniform_(this.weight, { generator });
      if (this.bias) linearUniform_(this.bias, { fanIn: inFeatures, generator });
    }
  }

  forward(x: Tensor): Tensor {
    return linear(x, this.weight, this.bias);
  }
}

/** Rows of a learned table for int64 ids of any shape (torch.nn.Embedding, initialized from N(0, 1)). */
export class Embedding extends Module {
  /** [count, width] */
  weight: Tensor;

  constructor(count: number, width: number, options: LayerOptions = {}) {
    super();
    this.weight = allocate([count, width], options);
    if (options.init ?? true) normal_(this.weight, { generator: options.generator });
  }

  forward(ids: Tensor): Tensor {
    return embedding(this.weight, ids);
  }
}

/** Root mean square norm with a learned scale, as in Llama. */
export class RMSNorm extends Module {
  /** [width] */
  weight: Tensor;
  readonly eps: number;

  constructor(width: number, options: LayerOptions & { eps?: number } = {}) {
    super();
    this.eps = options.eps ?? 1e-6;
    this.weight = allocate([width], options);
    if (options.init ?? true) constant_(this.weight, 1);
  }

  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, this.eps);
  }

  /** Adds a branch to the residual stream and normalizes the sum, in one pass: [norm(x + residual), x + residual]. */
  addForward(x: Tensor, residual: Tensor): [normed: Tensor, sum: Tensor] {
    return addRmsNorm(x, residual, this.weight, this.eps);
  }
}
