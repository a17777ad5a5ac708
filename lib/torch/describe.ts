import { Generator } from "./generator.js";
import { Slice } from "./slice.js";
import { Tensor } from "./tensor.js";

export function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

/** Lists and objects in lists and objects are shown so deep; they may hold themselves. */
const maxDepth = 3;

/** An argument as error messages show it: a tensor by shape, dtype and device. */
export function describe(value: unknown): string {
  return describeAt(value, 0);
}

function describeAt(value: unknown, depth: number): string {
  if (value instanceof Tensor) {
    return value.disposed ? "Tensor(disposed)" : `Tensor([${value.shape}], ${value.dtype}, ${value.device})`;
  }
  if (Array.isArray(value)) {
    if (depth === maxDepth) return "[…]";
    const shown = Array.from(value.slice(0, 8), (item) => describeAt(item, depth + 1)).join(", ");
    return `[${shown}${value.length > 8 ? `, … ${value.length} in all` : ""}]`;
  }
  if (value instanceof Slice) return `slice(${value.start}, ${value.end}, ${value.step})`;
  if (value instanceof Generator) return "Generator";
  if (isPlainObject(value)) {
    if (depth === maxDepth) return "{…}";
    const entries = Object.entries(value);
    const shown = entries.slice(0, 8).map(([key, item]) => `${key}: ${describeAt(item, depth + 1)}`);
    return `{ ${shown.join(", ")}${entries.length > 8 ? `, … ${entries.length} in all` : ""} }`;
  }
  if (typeof value === "object" && value !== null) return value.constructor?.name ?? "an object";
  if (typeof value === "function") return "a function";
  if (typeof value !== "string") return String(value);
  return value.length > 80
    ? `${JSON.stringify(value.slice(0, 80))}… of ${value.length} characters`
    : JSON.stringify(value);
}
