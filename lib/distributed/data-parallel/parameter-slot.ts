import type { Module } from "../../nn/index.js";
import * as torch from "../../torch/index.js";
import { Tensor } from "../../torch/index.js";
import type { LocalTensor } from "../tensor-slice.js";

/**
 * Parameters whose gradients are communicated together: those of one segment of a model, such as a decoder layer. The
 * four hooks are those of FSDP2; replicated and sharded training implement them differently.
 */
export interface Unit extends Disposable {
  /** Called before its parameters are used. */
  beforeForward(): void;
  afterForward(): void;
  /** Called when the gradient of its outputs has arrived. */
  beforeBackward(): void;
  /**
   * Called when the gradients of all its parameters are computed. `isLast`: whether this is the last micro-batch of the
   * step.
   */
  afterBackward(isLast: boolean): void;
  /** Starts communication early, before the unit's turn. */
  prefetch(): void;
  /**
   * Completes the reduction that {@link afterBackward} started. It is called after the preceding unit has started its
   * own reduction.
   */
  settle(): void;
  /** Waits for all communication; the gradients are then in the parameters, summed over all ranks. */
  finish(): void;
  /** Returns the parameters to their state between steps. */
  release(): void;
  /** This rank's part of each parameter. */
  local(): LocalTensor[];
}

/** Dtype in which a parameter's gradients are summed over ranks: sums in bfloat16 or float16 would lose precision. */
export function reduceDtype({ dtype }: torch.Tensor): torch.DType {
  return dtype === "float64" ? "float64" : "float32";
}

/**
 * The gradients of parameters, with zeros for parameters that this rank did not use: all ranks must send the same
 * tensors.
 */
export function gradientsOf(parameters: readonly torch.Tensor[]): torch.Tensor[] {
  // Not zeros_like of the values, which may have no memory, such as a sharded parameter that is not gathered.
  return parameters.map(({ grad, shape, dtype, device }) => grad ?? torch.zeros(shape, { dtype, device }));
}

/**
 * A parameter with the places in which modules hold it (FSDP's module and param_name). A tied parameter has several
 * places.
 */
export interface ParameterSlot {
  name: string;
  tensor: Tensor;
  /** Replaces the tensor in all places. */
  set(tensor: Tensor): void;
}

interface Place {
  module: Module;
  tensor: Tensor;
  set(tensor: Tensor): void;
}

/** The parameters of a module and its submodules, each once. */
export function parameterSlots(root: Module): ParameterSlot[] {
  return slotsOf(root, placesOf(root));
}

/**
 * The parameters of a model by segment. Parameters outside all segments, and tied ones in several segments, belong to
 * the root.
 */
export function unitSlots(
  model: Module,
  segments: readonly Module[],
): { root: ParameterSlot[]; segments: ParameterSlot[][] } {
  const homes = new Map<Module, number>();
  for (const [i, segment] of segments.entries()) {
    for (const [, part] of segment.namedModules()) homes.set(part, homes.has(part) ? -1 : i);
  }
  const owners = new Map<Tensor, number>();
  for (const { module, tensor } of placesOf(model)) {
    const home = homes.get(module) ?? -1;
    owners.set(tensor, (owners.get(tensor) ?? home) === home ? home : -1);
  }
  const all = parameterSlots(model);
  const ownedBy = (unit: number) => all.filter(({ tensor }) => owners.get(tensor) === unit);
  return { root: ownedBy(-1), segments: segments.map((_, i) => ownedBy(i)) };
}

function slotsOf(root: Module, places: readonly Place[]): ParameterSlot[] {
  const names = new Map(Array.from(root.namedParameters(), ([name, tensor]) => [tensor, name]));
  const lists = new Map<Tensor, Place[]>();
  for (const place of places) lists.set(place.tensor, [...(lists.get(place.tensor) ?? []), place]);
  return Array.from(lists, ([tensor, list]) => ({
    name: names.get(tensor) as string,
    tensor,
    set: (replaced) => {
      for (const place of list) place.set(replaced);
    },
  }));
}

/** Every place in which a module or submodule holds a parameter: a property, or an element of an array. */
function placesOf(root: Module): Place[] {
  const places: Place[] = [];
  const add = (module: Module, holder: Record<string, unknown>) => {
    for (const [key, tensor] of Object.entries(holder)) {
      const set = (replaced: Tensor) => {
        holder[key] = replaced;
      };
      if (tensor instanceof Tensor) places.push({ module, tensor, set });
      else if (holder === (module as unknown) && Array.isArray(tensor)) add(module, tensor as never);
    }
  };
  for (const [, module] of root.namedModules()) add(module, module as unknown as Record<string, unknown>);
  return places;
}
