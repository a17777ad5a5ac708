import type { Module } from "../../nn/index.js";
import type { Tensor } from "../../torch/index.js";

/** Where a module holds a parameter: what FSDP calls module and param_name. A tied one has several places. */
export interface ParameterSlot {
  name: string;
  tensor: Tensor;
  /** Puts another tensor there. */
  set(tensor: Tensor): void;
}

/** The parameters of a module and its parts, each once, but for those in `except`. */
export function parameterSlots(root: Module, except: readonly Module[] = []): ParameterSlot[] {
  const skipped = new Set(except.flatMap((module) => Array.from(module.namedModules(), ([, part]) => part)));
  const places = new Map<Tensor, ((tensor: Tensor) => void)[]>();
  const names = new Map(Array.from(root.namedParameters(), ([name, tensor]) => [tensor, name]));
  for (const [, module] of root.namedModules()) {
    if (skipped.has(module)) continue;
    const properties = module as unknown as Record<string, unknown>;
    for (const [key, value] of Object.entries(properties)) {
      if (!names.has(value as Tensor)) continue;
      const list = places.get(value as Tensor) ?? [];
      places.set(value as Tensor, list);
      list.push((tensor) => {
        properties[key] = tensor;
      });
    }
  }
  return Array.from(places, ([tensor, setters]) => ({
    name: names.get(tensor) as string,
    tensor,
    set: (replaced) => {
      for (const set of setters) set(replaced);
    },
  }));
}
