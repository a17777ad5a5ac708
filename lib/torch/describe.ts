import { Generator } from "./generator.js";
import { Slice } from "./slice.js";
import { Tensor } from "./tensor.js";

export function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

/** An argument as error messages show it: a tensor by shape, dtype and device. */
export function describe(value: unknown): string {
  if (value instanceof Tensor) {
    return value.disposed ? "Tensor(disposed)" : `Tensor([${value.shape}], ${value.dtype}, ${value.device})`;
  }
  if (Array.isArray(value)) {
    const shown = value.slice(0, 8).map(describe).join(", ");
    return `[${shown}${value.length > 8 ? `, … ${value.length} in all` : ""}]`;
  }
  if (value instanceof Slice) return `slice(${value.start}, ${value.end}, ${value.step})`;
  if (value instanceof Generator) return "Generator";
  if (isPlainObject(value)) {
    const entries = Object.entries(value).map(([key, item]) => `${key}: ${describe(item)}`);
    return `{ ${entries.join(", ")} }`;
  }
  if (typeof value === "object" && value !== null) return value.constructor?.name ?? "an object";
  if (typeof value === "function") return "a function";
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}
