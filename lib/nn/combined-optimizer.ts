import type { Tensor } from "../torch/index.js";
import { NnError } from "./errors.js";
import { checkState, type Optimizer, type OptimizerState } from "./optimizer.js";

/** One of several optimizers, and the factor on the learning rate for its parameters. */
export interface OptimizerPart {
  optimizer: Optimizer;
  /** Default 1. */
  lrScale?: number;
}

/**
 * Several optimizers as one, each with parameters of its own: Muon for the matrices, AdamW for the rest. Their states are
 * saved together, by the parameters' names. Disposing it disposes the parts.
 */
export class CombinedOptimizer implements Optimizer {
  readonly #parts: readonly Required<OptimizerPart>[];

  /** @throws NnError NN_OPTIMIZER for parts that have states of the same name, or for none */
  constructor(parts: readonly OptimizerPart[]) {
    if (parts.length === 0) throw new NnError("NN_OPTIMIZER", "a CombinedOptimizer needs optimizers");
    this.#parts = parts.map(({ optimizer, lrScale = 1 }) => ({ optimizer, lrScale }));
    const seen = new Set<string>();
    for (const name of this.#states().flatMap(({ tensors }) => Object.keys(tensors))) {
      if (seen.has(name)) throw new NnError("NN_OPTIMIZER", `two optimizers have the state ${name}`);
      seen.add(name);
    }
  }

  /** Whether every part is elementwise. */
  get elementwise(): boolean {
    return this.#parts.every(({ optimizer }) => optimizer.elementwise === true);
  }

  step(lr: number): void {
    for (const { optimizer, lrScale } of this.#parts) optimizer.step(lr * lrScale);
  }

  zeroGrad(): void {
    for (const { optimizer } of this.#parts) optimizer.zeroGrad();
  }

  stateDict(): OptimizerState {
    const states = this.#states();
    return { step: states[0].step, tensors: Object.assign({}, ...states.map(({ tensors }) => tensors)) };
  }

  loadStateDict(state: OptimizerState): void {
    const states = this.#states();
    checkState(new Map(states.flatMap(({ tensors }) => Object.entries(tensors))), state); // before any part is changed
    for (const [i, { optimizer }] of this.#parts.entries()) {
      const names = Object.keys(states[i].tensors);
      const tensors: Record<string, Tensor> = Object.fromEntries(names.map((name) => [name, state.tensors[name]]));
      optimizer.loadStateDict({ step: state.step, tensors });
    }
  }

  dispose(): void {
    for (const { optimizer } of this.#parts) optimizer.dispose();
  }

  #states(): OptimizerState[] {
    return this.#parts.map(({ optimizer }) => optimizer.stateDict());
  }
}
