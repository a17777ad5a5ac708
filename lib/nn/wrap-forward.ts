import type { Module } from "./module.js";

type Forward = (...args: never[]) => unknown;
type WithForward = Module & { forward: Forward };

/**
 * Puts something around a module's forward, on this instance alone: what PyTorch does with forward hooks. Wraps made later
 * are outside those made before.
 *
 * @returns takes the wrap off again; of several the last must go first
 */
export function wrapForward<M extends WithForward>(
  module: M,
  wrap: (forward: M["forward"]) => M["forward"],
): () => void {
  const before = Object.getOwnPropertyDescriptor(module, "forward");
  const inner = module.forward.bind(module) as M["forward"];
  // Not enumerable: a module's enumerable properties are its parts.
  Object.defineProperty(module, "forward", { value: wrap(inner), configurable: true, writable: true });
  return () => {
    if (before) Object.defineProperty(module, "forward", before);
    else Reflect.deleteProperty(module, "forward");
  };
}
