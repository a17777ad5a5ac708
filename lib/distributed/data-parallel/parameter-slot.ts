import type { Module } from "../../nn/index.js";
import { Tensor } from "../../torch/index.js";

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
