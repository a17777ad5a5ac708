import { Tensor } from "./tensor.js";

/** The tensors inside a value, and a function to replace them. */
export interface TensorTree<T> {
  tensors: Tensor[];
  /** The value with these tensors instead. Parts without tensors are the same objects as before. */
  rebuild(tensors: readonly Tensor[]): T;
}

/**
 * Finds the tensors in arrays and plain objects: torch.utils._pytree. Other objects are not searched.
 *
 * @param wanted selects tensors; default: all
 */
export function tensorTree<T>(value: T, wanted: (tensor: Tensor) => boolean = () => true): TensorTree<T> {
  const tensors: Tensor[] = [];
  const build = visit(value, wanted, tensors);
  return { tensors, rebuild: (replaced) => (build ? (build(replaced) as T) : value) };
}

type Build = (tensors: readonly Tensor[]) => unknown;

/** Collects tensors; returns a function that rebuilds the value, or null if nothing in it is replaced. */
function visit(value: unknown, wanted: (tensor: Tensor) => boolean, found: Tensor[]): Build | null {
  if (value instanceof Tensor) {
    if (!wanted(value)) return null;
    const index = found.push(value) - 1;
    return (tensors) => tensors[index];
  }
  if (Array.isArray(value)) {
    const parts = value.map((item) => visit(item, wanted, found));
    if (parts.every((part) => part === null)) return null;
    return (tensors) => value.map((item, i) => parts[i]?.(tensors) ?? item);
  }
  if (value === null || typeof value !== "object" || Object.getPrototypeOf(value) !== Object.prototype) return null;
  const parts = Object.entries(value).map(([key, item]) => [key, visit(item, wanted, found)] as const);
  if (parts.every(([, part]) => part === null)) return null;
  return (tensors) => {
    const replaced = parts.flatMap(([key, part]) => (part ? [[key, part(tensors)]] : []));
    return { ...value, ...Object.fromEntries(replaced) };
  };
}
