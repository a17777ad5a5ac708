import type { Module } from "../../nn/index.js";
import * as torch from "../../torch/index.js";
import { Tensor } from "../../torch/index.js";
import type { LocalTensor } from "../tensor-slice.js";

/**
 * Parameters whose gradients travel together: one segment of a model, such as a decoder layer. The four moments are those
 * of FSDP2's hooks; what a unit does in them is the difference between replicated and sharded training.
 */
export interface Unit extends Disposable {
  /** Its parameters are about to be used. */
  beforeForward(): void;
  afterForward(): void;
  /** The gradient of its outputs is there. */
  beforeBackward(): void;
  /** The gradients of all its parameters are there. `isLast`: of the step's micro-batches. */
  afterBackward(isLast: boolean): void;
  /** Begins what may be begun early, before the unit's own turn. */
  prefetch(): void;
  /** Takes in a reduction that {@link afterBackward} began. The unit before this one calls it when its own has begun. */
  settle(): void;
  /** Waits for whatever is under way; the gradients are then on the parameters, summed over all ranks. */
  finish(): void;
  /** Parameters are as between steps afterwards. */
  release(): void;
  /** This rank's part of each parameter. */
  local(): LocalTensor[];
}

/** What a parameter's gradients are summed over ranks in: sums of many in a smaller dtype lose what distinguishes them. */
export function reduceDtype({ dtype }: torch.Tensor): torch.DType {
  return dtype === "float64" ? "float64" : "float32";
}

/** Gradients, with zeros for those that this rank's data did not need: all ranks must send the same. */
export function gradientsOf(parameters: readonly torch.Tensor[]): torch.Tensor[] {
  // Not of the values: there may be none, as of a sharded parameter that is not gathered.
  return parameters.map(({ grad, shape, dtype, device }) => grad ?? torch.zeros(shape, { dtype, device }));
}

/** Where a module holds a parameter: what FSDP calls module and param_name. A tied one has several places. */
export interface ParameterSlot {
  name: string;
  tensor: Tensor;
  /** Puts another tensor there. */
  set(tensor: Tensor): void;
}

interface Place {
  module: Module;
  tensor: Tensor;
  set(tensor: Tensor): void;
}

/** The parameters of a module and its parts, each once. */
export function parameterSlots(root: Module): ParameterSlot[] {
  return slotsOf(root, placesOf(root));
}

/**
 * The parameters of a model by its segments. Those in no segment, and tied ones that are not all in one, are the root's.
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

/** Every place in which a module or a part of it holds a parameter: a property, or an element of an array in one. */
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
