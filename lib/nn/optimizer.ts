import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { checkOptions } from "../torch/options.js";
import { NnError, type ShapeMismatch, StateDictError } from "./errors.js";
import { type Module, sameShape } from "./module.js";

/** The saved state of an optimizer: the number of steps taken, and tensors named `<parameter>.<slot>`. */
export interface OptimizerState {
  step: number;
  tensors: Record<string, Tensor>;
}

/** The interface of optimizers. Implement it for a custom optimizer. */
export interface Optimizer {
  /**
   * Whether the update of each element depends only on the gradient and state of that element (AdamW, SGD). An
   * optimizer that needs whole matrices (Muon, Shampoo) leaves it false or undefined and is rejected if parameters are
   * sharded over processes.
   */
  readonly elementwise?: boolean;
  /** Applies the gradients with learning rate `lr`. Parameters without a gradient are unchanged. */
  step(lr: number): void;
  /** Drops the gradients. */
  zeroGrad(): void;
  /** The state by name; the tensors are the optimizer's own, not copies. */
  stateDict(): OptimizerState;
  /** Copies a saved state into the optimizer. Throws StateDictError without copying if it does not match. */
  loadStateDict(state: OptimizerState): void;
  /** Frees the state, not the parameters. */
  dispose(): void;
}

/** Parameters that share their hyperparameters. Names key the saved state. */
export interface ParameterGroup {
  parameters: Iterable<readonly [name: string, tensor: Tensor]>;
  /** Default: the optimizer's weight decay. */
  weightDecay?: number;
  /** Factor of the learning rate given to step(); default 1. */
  lrScale?: number;
}

/**
 * Splits a module's parameters into a group with weight decay and one without. By default matrices decay, and
 * one-dimensional parameters (norms, biases) do not.
 *
 * @param options.embeddings false: parameters whose name contains "embed" do not decay either
 * @param options.decays decides for each parameter, instead of the default rule
 */
export function decayGroups(
  module: Module,
  weightDecay: number,
  options: { embeddings?: boolean; decays?: (name: string, tensor: Tensor) => boolean } = {},
): ParameterGroup[] {
  options = checkOptions("decayGroups", options, ["embeddings", "decays"]);
  const { embeddings = true } = options;
  const decays =
    options.decays ??
    ((name: string, tensor: Tensor) => tensor.ndim > 1 && (embeddings || !name.toLowerCase().includes("embed")));
  const decayed: [string, Tensor][] = [];
  const plain: [string, Tensor][] = [];
  for (const [name, tensor] of module.namedParameters()) (decays(name, tensor) ? decayed : plain).push([name, tensor]);
  return [
    { parameters: decayed, weightDecay },
    { parameters: plain, weightDecay: 0 },
  ].filter((group) => group.parameters.length > 0);
}

/** Tensors of one bucket that are updated together. Index i of every list belongs to the same parameter. */
export interface UpdateSlice {
  /** float32 values to update in place: the parameters, or their master copies. */
  targets: Tensor[];
  /** float32 gradients. */
  gradients: Tensor[];
  /** float32 state, one list per slot. */
  slots: Record<string, Tensor[]>;
  /** float32 scalar on the bucket's device: the number of steps, including this one. */
  step: Tensor;
  weightDecay: number;
}

/** Parameters of one group with the same device and dtype, for one call of a fused kernel. */
class Bucket {
  /** Device of the state: the parameters' device, or the host. */
  readonly device: string;
  readonly names: string[] = [];
  readonly parameters: Tensor[] = [];
  readonly slots: Record<string, Tensor[]>;
  /**
   * float32 copies if the parameters have lower precision (bfloat16 would lose small updates) or are on another device
   * than the state.
   */
  readonly masters: Tensor[] | null;
  /** Whether the masters are more precise than the parameters and so belong to the state. */
  readonly hasFinerMasters: boolean;
  readonly step: Tensor;

  constructor(
    device: string,
    readonly weightDecay: number,
    readonly lrScale: number,
    entries: [string, Tensor][],
    slotNames: readonly string[],
    offload: boolean,
  ) {
    this.device = offload ? "cpu" : device;
    for (const [name, tensor] of entries) {
      this.names.push(name);
      this.parameters.push(tensor);
    }
    const place = { dtype: "float32" as const, device: this.device };
    const zeros = () => this.parameters.map((p) => torch.keep(torch.zeros(p.shape, place)));
    this.slots = Object.fromEntries(slotNames.map((slot) => [slot, zeros()]));
    this.hasFinerMasters = this.parameters[0]?.dtype !== "float32";
    this.masters =
      offload || this.hasFinerMasters
        ? this.parameters.map((p) => torch.keep(p.detach().to({ ...place, copy: true })))
        : null;
    this.step = torch.keep(torch.zeros([], place));
  }

  /** All state tensors as [name, tensor], in a fixed order. */
  *tensors(): Generator<[string, Tensor]> {
    for (const [i, name] of this.names.entries()) {
      for (const [slot, list] of Object.entries(this.slots)) yield [`${name}.${slot}`, list[i]];
      if (this.masters && this.hasFinerMasters) yield [`${name}.master`, this.masters[i]];
    }
  }
}

// Number of elements whose low-precision gradients are converted to float32 at a time.
const SLICE_ELEMENTS = 1 << 26;

/**
 * Base class of AdamW, SGD and Muon: groups parameters into buckets of equal device and dtype, keeps state in float32 and
 * updates each bucket with one native call. Parameters of lower precision (a model in bfloat16) have float32 master
 * copies; the update is applied to them and rounded to the parameters. With float32 parameters (autocast training)
 * there are no masters. With `offload`, the state, the masters and the update are on the host, so that the device holds
 * only parameters and gradients (FSDP's CPUOffloadPolicy, for the optimizer).
 */
export abstract class BucketedOptimizer implements Optimizer {
  /** True, unless a subclass overrides it: see {@link Optimizer.elementwise}. */
  readonly elementwise: boolean = true;
  readonly #buckets: Bucket[] = [];
  #steps = 0;

  protected constructor(
    parameters: Iterable<readonly [string, Tensor]> | ParameterGroup[],
    slotNames: readonly string[],
    defaults: { weightDecay: number; offload?: boolean },
  ) {
    const seen = new Set<string>();
    const make = () => {
      for (const group of toGroups(parameters)) {
        const kinds = new Map<string, [string, Tensor][]>();
        for (const [name, tensor] of group.parameters) {
          if (seen.has(name)) throw new NnError("NN_OPTIMIZER", `parameter ${name} is given twice`);
          seen.add(name);
          if (!tensor.requiresGrad) continue;
          const kind = `${tensor.device} ${tensor.dtype}`;
          const entries = kinds.get(kind);
          if (entries) entries.push([name, tensor]);
          else kinds.set(kind, [[name, tensor]]);
        }
        const weightDecay = group.weightDecay ?? defaults.weightDecay;
        for (const entries of kinds.values()) {
          const device = entries[0][1].device;
          this.#buckets.push(
            new Bucket(device, weightDecay, group.lrScale ?? 1, entries, slotNames, defaults.offload ?? false),
          );
        }
      }
    };
    torch.scope(() => torch.noGrad(make));
    if (this.#buckets.length === 0) throw new NnError("NN_OPTIMIZER", "no parameter requires a gradient");
  }

  /** Updates `slice.targets` in place. Called with gradients disabled, inside a scope. */
  protected abstract update(slice: UpdateSlice, lr: number, steps: number): void;

  /** Steps taken. */
  get steps(): number {
    return this.#steps;
  }

  step(lr: number): void {
    if (!Number.isFinite(lr)) throw new NnError("NN_OPTIMIZER", `the learning rate is ${lr}`);
    this.#steps += 1;
    torch.noGrad(() => {
      for (const bucket of this.#buckets) {
        bucket.step.add_(1);
        let from = 0;
        while (from < bucket.parameters.length) from = this.#updateSlice(bucket, from, lr * bucket.lrScale);
      }
    });
  }

  /** Updates one slice of parameters, starting at index `from`, and returns the next index. */
  #updateSlice(bucket: Bucket, from: number, lr: number): number {
    return torch.scope(() => {
      const indices: number[] = [];
      const gradients: Tensor[] = [];
      let elements = 0;
      let next = from;
      for (; next < bucket.parameters.length && elements < SLICE_ELEMENTS; next++) {
        const gradient = bucket.parameters[next].grad;
        if (!gradient) continue;
        indices.push(next);
        gradients.push(bucket.masters ? gradient.to({ dtype: "float32", device: bucket.device }) : gradient);
        if (bucket.masters) elements += gradient.numel();
      }
      if (indices.length === 0) return next;
      const whole = indices.length === bucket.parameters.length;
      const pick = (list: Tensor[]) => (whole ? list : indices.map((i) => list[i]));
      const targets = pick(bucket.masters ?? bucket.parameters);
      const slots = Object.fromEntries(Object.entries(bucket.slots).map(([slot, list]) => [slot, pick(list)]));
      this.update({ targets, gradients, slots, step: bucket.step, weightDecay: bucket.weightDecay }, lr, this.#steps);
      if (bucket.masters) torch.ops.aten._foreach_copy_(pick(bucket.parameters), targets);
      return next;
    });
  }

  zeroGrad(): void {
    for (const { parameters } of this.#buckets) for (const tensor of parameters) tensor.grad = null;
  }

  /** Copies the parameters to the float32 master copies. Call it after loading other weights. */
  syncMasters(): void {
    torch.noGrad(() => {
      for (const { masters, parameters } of this.#buckets) {
        if (masters) torch.ops.aten._foreach_copy_(masters, parameters);
      }
    });
  }

  stateDict(): OptimizerState {
    return { step: this.#steps, tensors: Object.fromEntries(this.#tensors()) };
  }

  loadStateDict(state: OptimizerState): void {
    const own = new Map(this.#tensors());
    checkState(own, state);
    torch.noGrad(() => {
      for (const [name, tensor] of own) tensor.copy_(state.tensors[name]);
      for (const { masters, hasFinerMasters, parameters, step } of this.#buckets) {
        step.fill_(state.step);
        if (!masters) continue;
        if (hasFinerMasters) torch.ops.aten._foreach_copy_(parameters, masters);
        else torch.ops.aten._foreach_copy_(masters, parameters);
      }
    });
    this.#steps = state.step;
  }

  dispose(): void {
    for (const bucket of this.#buckets) {
      for (const [, tensor] of bucket.tensors()) tensor.dispose();
      for (const master of bucket.masters ?? []) master.dispose();
      bucket.step.dispose();
    }
    this.#buckets.length = 0;
  }

  /** The parameters by name. */
  protected *parameters(): Generator<[string, Tensor]> {
    for (const { names, parameters } of this.#buckets) {
      for (const [i, name] of names.entries()) yield [name, parameters[i]];
    }
  }

  *#tensors(): Generator<[string, Tensor]> {
    for (const bucket of this.#buckets) yield* bucket.tensors();
  }
}

/** @throws NnError NN_OPTIMIZER, StateDictError for a saved state that does not fit an optimizer's own tensors */
export function checkState(own: ReadonlyMap<string, Tensor>, state: OptimizerState): void {
  if (!Number.isInteger(state.step) || state.step < 0) {
    throw new NnError("NN_OPTIMIZER", `the saved step is ${state.step}, expected an integer >= 0`);
  }
  const missing = [...own.keys()].filter((name) => !(name in state.tensors));
  const unexpected = Object.keys(state.tensors).filter((name) => !own.has(name));
  const mismatched: ShapeMismatch[] = [];
  for (const [name, tensor] of own) {
    const found = state.tensors[name]?.shape;
    if (found && !sameShape(tensor.shape, found)) mismatched.push({ name, expected: tensor.shape, found });
  }
  if (missing.length + unexpected.length + mismatched.length > 0) {
    throw new StateDictError("the optimizer's state", { missing, unexpected, mismatched });
  }
}

function toGroups(parameters: Iterable<readonly [string, Tensor]> | ParameterGroup[]): ParameterGroup[] {
  if (Array.isArray(parameters) && parameters.length > 0 && !Array.isArray(parameters[0])) {
    return parameters as ParameterGroup[];
  }
  return [{ parameters: parameters as Iterable<readonly [string, Tensor]> }];
}
