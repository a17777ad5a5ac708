import { getItem } from "./access.js";
import { type Bound, signature } from "./calls.js";
import { UnsupportedFeature } from "./errors.js";
import { str } from "./text.js";
import { type Kwargs, Markup, textOf, truthy, Undefined, type Value } from "./values.js";

/** A filter: a function of a value and its arguments. */
export type Filter = (value: Value, args: readonly Value[], kwargs: Kwargs) => Value;

/**
 * Every filter of jinja2, by name; unsupported ones raise when they are used. filters.ts fills it, because `map` and
 * the test `filter` look up filters by name, and `map` is a filter.
 */
export const FILTERS: Map<string, Filter> = new Map();

/** Makes a filter with its parameters besides the value: `"width? first?"`. */
export function filter(
  name: string,
  parameters: string,
  body: (value: Value, ...args: Bound) => Value,
): [string, Filter] {
  const bind = signature(name, parameters);
  return [name, (value: Value, args: readonly Value[], kwargs: Kwargs) => body(value, ...bind(args, kwargs))];
}

/** An unsupported filter. */
export function leftOut(name: string): [string, Filter] {
  return [
    name,
    () => {
      throw new UnsupportedFeature(`the filter ${name}`);
    },
  ];
}

/** Applies a function to the text of a value; the result is marked safe if the value was. */
export function softText(value: Value, change: (text: string) => string): Value {
  return value instanceof Markup ? new Markup(change(value.text)) : change(str(value));
}

export function flag(value: Value | undefined, otherwise: boolean): boolean {
  return value === undefined ? otherwise : truthy(value);
}

/** A getter for a path such as "a.b.0" or an index, as in the argument `attribute` of filters. */
export function attributeGetter(attribute: Value | undefined, otherwise: Value = null): (item: Value) => Value {
  const parts = attributeParts(attribute ?? null);
  return (item) => {
    let value = item;
    for (const part of parts) {
      value = getItem(value, part);
      if (otherwise !== null && value instanceof Undefined) value = otherwise;
    }
    return value;
  };
}

function attributeParts(attribute: Value): Value[] {
  if (attribute === null) return [];
  const text = textOf(attribute);
  if (text === undefined) return [attribute];
  return text.split(".").map((part) => (/^[0-9]+$/.test(part) ? BigInt(part) : part));
}

/** Converts strings to lower case and returns other values unchanged: the default comparison of filters. */
export function ignoreCase(value: Value): Value {
  const text = textOf(value);
  return text === undefined ? value : text.toLowerCase();
}
