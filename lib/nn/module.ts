import type { DTypeLike, Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { checkOptions } from "../torch/options.js";
import { type ShapeMismatch, StateDictError } from "./errors.js";

/** Named tensors, from {@link Module.stateDict} and for {@link Module.loadStateDict}. */
export type StateDict = Record<string, Tensor>;

/** Dtype and device of a new module's parameters. */
export interface FactoryOptions {
  /** Default "float32". */
  dtype?: DTypeLike;
  /** Default "cpu". "meta" creates shapes without memory. */
  device?: string;
}

/**
 * Makes a tensor a parameter: a leaf tensor with a gradient, kept outside every scope, so that it lives until its
 * module is disposed. The tensor itself is used, not a copy.
 */
export function parameter(tensor: Tensor, requiresGrad = true): Tensor {
  torch.keep(tensor);
  tensor.requiresGrad = requiresGrad;
  return tensor;
}

/**
 * Base class of everything with parameters. Nothing needs to be registered: every own property that holds a Tensor is a
 * parameter, and every own property that holds a Module (or an array of either) is a submodule. Names are the dotted
 * property paths, such as `layers.0.mlp.gateProj.weight`. Tensors that are not parameters belong in `#private` fields.
 */
export abstract class Module {
  /**
   * Parameters with their names, in the order of the properties. A tensor that is reachable twice (tied weights) is
   * listed once, under its first name.
   */
  *namedParameters(prefix = ""): Generator<[name: string, tensor: Tensor]> {
    const seen = new Set<Tensor>();
    for (const [name, tensor] of this.#walk(prefix)) {
      if (seen.has(tensor)) continue;
      seen.add(tensor);
      yield [name, tensor];
    }
  }

  /** The parameters without names, each once. */
  parameters(): Tensor[] {
    return Array.from(this.namedParameters(), ([, tensor]) => tensor);
  }

  /** This module (under `prefix`) and all its submodules, depth first. */
  *namedModules(prefix = ""): Generator<[name: string, module: Module]> {
    yield [prefix, this];
    for (const [key, value] of entries(this)) {
      if (value instanceof Module) yield* value.namedModules(join(prefix, key));
    }
  }

  /** Number of elements of all parameters; tied ones count once. */
  numParameters(options: { trainableOnly?: boolean } = {}): number {
    options = checkOptions("numParameters", options, ["trainableOnly"]);
    const { trainableOnly = false } = options;
    let count = 0;
    for (const tensor of this.parameters()) {
      if (!trainableOnly || tensor.requiresGrad) count += tensor.numel();
    }
    return count;
  }

  /** All parameters by name, tied ones under each of their names. The tensors are the module's own, not copies. */
  stateDict(): StateDict {
    return Object.fromEntries(this.#walk(""));
  }

  /**
   * Copies the values of `state` into the parameters, converting dtype and device. Nothing is copied if any tensor does
   * not match.
   *
   * @param strict false: missing and unexpected names are ignored
   * @throws StateDictError naming every missing, unexpected and mismatched tensor
   */
  loadStateDict(state: StateDict, options: { strict?: boolean } = {}): void {
    options = checkOptions("loadStateDict", options, ["strict"]);
    const { strict = true } = options;
    const own = this.stateDict();
    const missing = strict ? Object.keys(own).filter((name) => !(name in state)) : [];
    const unexpected = strict ? Object.keys(state).filter((name) => !(name in own)) : [];
    const mismatched: ShapeMismatch[] = [];
    for (const [name, tensor] of Object.entries(own)) {
      const source = state[name];
      if (!source) continue;
      const [expected, found] = [tensor.shape, source.shape];
      if (!sameShape(expected, found)) mismatched.push({ name, expected, found });
    }
    if (missing.length + unexpected.length + mismatched.length > 0) {
      throw new StateDictError("the state dict", { missing, unexpected, mismatched });
    }
    torch.noGrad(() => {
      for (const [name, tensor] of Object.entries(own)) {
        const source = state[name];
        if (source) tensor.copy_(source);
      }
    });
  }

  /**
   * Converts all parameters to another dtype or device. They are replaced by new tensors and the old ones are freed, so
   * create optimizers afterwards. Tied parameters stay tied; gradients are dropped.
   */
  to(options: FactoryOptions): this {
    const moved = new Map<Tensor, Tensor>();
    for (const [, module] of this.namedModules()) {
      replaceTensors(module, (tensor) => {
        const known = moved.get(tensor);
        if (known) return known;
        const converted = torch.scope(() => torch.noGrad(() => tensor.detach().to({ ...options, copy: true })));
        const result = parameter(converted, tensor.requiresGrad);
        moved.set(tensor, result);
        return result;
      });
    }
    for (const old of moved.keys()) old.dispose();
    return this;
  }

  /** Enables or disables gradients for all parameters. */
  requiresGrad_(value = true): this {
    for (const tensor of this.parameters()) tensor.requiresGrad = value;
    return this;
  }

  /** Drops the gradients of all parameters. */
  zeroGrad(): void {
    for (const tensor of this.parameters()) tensor.grad = null;
  }

  /** Frees all parameters. Using the module afterwards is an error. */
  dispose(): void {
    for (const tensor of this.parameters()) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  *#walk(prefix: string): Generator<[string, Tensor]> {
    for (const [key, value] of entries(this)) {
      const name = join(prefix, key);
      if (value instanceof Module) yield* value.#walk(name);
      else yield [name, value];
    }
  }
}

/** Yields the tensors and modules in a module's own properties, including the elements of arrays. */
function* entries(module: Module): Generator<[string, Tensor | Module]> {
  for (const [key, value] of Object.entries(module)) {
    if (isPart(value)) {
      yield [key, value];
    } else if (Array.isArray(value)) {
      for (const [index, element] of value.entries()) {
        if (isPart(element)) yield [`${key}.${index}`, element];
      }
    }
  }
}

function replaceTensors(module: Module, replace: (tensor: Tensor) => Tensor): void {
  const properties = module as unknown as Record<string, unknown>;
  for (const [key, value] of Object.entries(properties)) {
    if (value instanceof torch.Tensor) {
      properties[key] = replace(value);
    } else if (Array.isArray(value)) {
      for (const [index, element] of value.entries()) {
        if (element instanceof torch.Tensor) value[index] = replace(element);
      }
    }
  }
}

function isPart(value: unknown): value is Tensor | Module {
  return value instanceof torch.Tensor || value instanceof Module;
}

function join(prefix: string, key: string): string {
  return prefix ? `${prefix}.${key}` : key;
}

/** True when two shapes have the same dimensions. */
export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, i) => size === b[i]);
}

type Forward = (...args: never[]) => unknown;
type WithForward = Module & { forward: Forward };

/**
 * Wraps the forward method of this module instance, like PyTorch's forward hooks. Later wrappers are outside earlier
 * ones.
 *
 * @returns a function that removes the wrapper; remove several in reverse order
 */
export function wrapForward<M extends WithForward>(
  module: M,
  wrap: (forward: M["forward"]) => M["forward"],
): () => void {
  const before = Object.getOwnPropertyDescriptor(module, "forward");
  const inner = module.forward.bind(module) as M["forward"];
  // Not enumerable, because a module's enumerable properties are its parameters and submodules.
  Object.defineProperty(module, "forward", { value: wrap(inner), configurable: true, writable: true });
  return () => {
    if (before) Object.defineProperty(module, "forward", before);
    else Reflect.deleteProperty(module, "forward");
  };
}
