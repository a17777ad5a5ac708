/** Method with which a class customizes how {@link describe} shows its instances. */
export const shown: unique symbol = Symbol("shown");

interface Shown {
  [shown](): string;
}

const isShown = (value: unknown): value is Shown => typeof value === "object" && value !== null && shown in value;

export function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

/** Maximum depth at which nested lists and objects are shown; they may be cyclic. */
const maxDepth = 3;

/** Describes an argument for error messages: a tensor by shape, dtype and device. */
export function describe(value: unknown): string {
  return describeAt(value, 0);
}

function describeAt(value: unknown, depth: number): string {
  if (isShown(value)) return value[shown]();
  if (Array.isArray(value)) {
    if (depth === maxDepth) return "[…]";
    const shown = Array.from(value.slice(0, 8), (item) => describeAt(item, depth + 1)).join(", ");
    return `[${shown}${value.length > 8 ? `, … ${value.length} in all` : ""}]`;
  }
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
