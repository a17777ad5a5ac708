import { attributeOf, getAttribute } from "./access.js";
import { PyError, typeError } from "./errors.js";
import type { Filter } from "./filter-helpers.js";
import { attributeGetter, filter, flag, ignoreCase, leftOut } from "./filter-helpers.js";
import { allocate, scan } from "./meter.js";
import { binary, equal, ordered } from "./operators.js";
import { DictView, Range } from "./sequences.js";
import { str } from "./text.js";
import {
  Dict,
  elements,
  Generator,
  iterate,
  lengthOf,
  Markup,
  Tuple,
  textOf,
  toList,
  truthy,
  typeName,
  Undefined,
  type Value,
} from "./values.js";

/** Filters that return one value of a sequence, or a list of its values. */
export const SEQUENCE_FILTERS: [string, Filter][] = [
  filter("attr", "name", (value, name) => attribute(value, name ?? null)),
  filter("count", "/", count),
  filter("d", "default_value? boolean?", defaultTo),
  filter("default", "default_value? boolean?", defaultTo),
  filter("dictsort", "case_sensitive? by? reverse?", dictSort),
  filter("first", "", (value) => {
    const next = iterate(value).next();
    return next.done ? new Undefined(() => "No first item, sequence was empty.") : next.value;
  }),
  filter("groupby", "attribute default? case_sensitive?", groupBy),
  filter("join", "d? attribute?", join),
  filter("last", "", last),
  filter("length", "/", count),
  filter("list", "", toList),
  filter("max", "case_sensitive? attribute?", (value, sensitive, by) => extreme(">", value, sensitive, by)),
  filter("min", "case_sensitive? attribute?", (value, sensitive, by) => extreme("<", value, sensitive, by)),
  leftOut("random"),
  filter("reverse", "", reverse),
  filter("sort", "reverse? case_sensitive? attribute?", sort),
  filter("sum", "attribute? start?", sum),
];

function attribute(value: Value, name: Value): Value {
  const text = textOf(name);
  if (text === undefined) throw typeError(`attribute name must be string, not '${typeName(name)}'`);
  if (value instanceof Undefined && !text.startsWith("__")) {
    throw value.fail();
  }
  const found = attributeOf(value, text);
  if (found === undefined) return new Undefined(() => `'${typeName(value)} object' has no attribute '${text}'`);
  return getAttribute(value, text);
}

function count(value: Value): bigint {
  const length = lengthOf(value);
  if (length === undefined) throw typeError(`object of type '${typeName(value)}' has no len()`);
  return BigInt(length);
}

function defaultTo(value: Value, otherwise: Value = "", boolean: Value = false): Value {
  return value instanceof Undefined || (truthy(boolean) && !truthy(value)) ? otherwise : value;
}

function dictSort(value: Value, sensitive?: Value, by: Value = "key", reversed?: Value): Value {
  if (by !== "key" && by !== "value") {
    throw new PyError("FilterArgumentError", 'You can only sort by either "key" or "value"');
  }
  if (value instanceof Undefined) throw value.fail();
  if (!(value instanceof Dict))
    throw new PyError("AttributeError", `'${typeName(value)}' object has no attribute 'items'`);
  const at = by === "key" ? 0 : 1;
  const items = new DictView(value, "items").list() as Tuple[];
  const key = (item: Value) => {
    const one = (item as Tuple).items[at];
    return flag(sensitive, false) ? one : ignoreCase(one);
  };
  return sorted(items, key, flag(reversed, false));
}

/** sorted(items, key, reverse): stable, and using only <. */
function sorted(items: readonly Value[], key: (item: Value) => Value, reversed: boolean): Value[] {
  allocate(items.length);
  const keyed = items.map((item) => ({ item, key: key(item) }));
  if (reversed) keyed.reverse();
  keyed.sort((a, b) => {
    scan(64);
    if (ordered("<", b.key, a.key)) return 1;
    return ordered("<", a.key, b.key) ? -1 : 0;
  });
  if (reversed) keyed.reverse();
  return keyed.map(({ item }) => item);
}

/** A group of groupby: a named tuple. */
class Group extends Tuple {
  override attribute(name: string): Value | undefined {
    if (name === "grouper") return this.items[0];
    return name === "list" ? this.items[1] : undefined;
  }
}

function groupBy(value: Value, by?: Value, otherwise: Value = null, sensitive?: Value): Value {
  const get = attributeGetter(by, otherwise);
  const key = flag(sensitive, false) ? get : (item: Value) => ignoreCase(get(item));
  const groups: { key: Value; items: Value[] }[] = [];
  for (const item of sorted(toList(value), key, false)) {
    const current = groups.at(-1);
    const itemKey = key(item);
    if (current && equal(current.key, itemKey)) current.items.push(item);
    else groups.push({ key: itemKey, items: [item] });
  }
  return groups.map(({ key: shown, items }) => new Group([flag(sensitive, false) ? shown : get(items[0]), items]));
}

function join(value: Value, separator: Value = "", by: Value = null): Value {
  const get = attributeGetter(by);
  const mark = str(separator);
  const parts: string[] = [];
  let length = 0;
  for (const item of elements(value)) {
    const part = str(get(item));
    length += part.length + mark.length;
    allocate(1);
    parts.push(part);
  }
  allocate(length);
  return parts.join(mark);
}

function last(value: Value): Value {
  const next = reversedOf(value).next();
  return next.done ? new Undefined(() => "No last item, sequence was empty.") : next.value;
}

/** reversed(value). @throws PyError TypeError for values without an order */
function reversedOf(value: Value): Iterator<Value> {
  const text = textOf(value);
  const isReversible =
    text !== undefined ||
    Array.isArray(value) ||
    [Tuple, Dict, DictView, Range, Undefined].some((kind) => value instanceof kind);
  if (!isReversible) throw typeError(`'${typeName(value)}' object is not reversible`);
  return toList(value).reverse()[Symbol.iterator]();
}

function reverse(value: Value): Value {
  const text = textOf(value);
  if (text !== undefined) {
    allocate(text.length);
    const reversed = [...text].reverse().join("");
    return value instanceof Markup ? new Markup(reversed) : reversed;
  }
  // Undefined has a length and elements, so Python treats it as a sequence.
  if (value instanceof Undefined) return new Generator([], "reversed");
  try {
    return new Generator(reversedOf(value), "reversed");
  } catch {
    try {
      return toList(value).reverse();
    } catch (error) {
      if (!(error instanceof PyError) || error.kind !== "TypeError") throw error;
      throw new PyError("FilterArgumentError", "argument must be iterable");
    }
  }
}

function extreme(operator: "<" | ">", value: Value, sensitive?: Value, by?: Value): Value {
  const get = attributeGetter(by);
  const key = (item: Value) => (flag(sensitive, false) ? get(item) : ignoreCase(get(item)));
  let best: { item: Value; key: Value } | undefined;
  for (const item of elements(value)) {
    const itemKey = key(item);
    if (!best || ordered(operator, itemKey, best.key)) best = { item, key: itemKey };
  }
  return best ? best.item : new Undefined(() => "No aggregated item, sequence was empty.");
}

function sort(value: Value, reversed?: Value, sensitive?: Value, by?: Value): Value {
  const text = textOf(by ?? null);
  const getters = (text === undefined ? [by ?? null] : text.split(",")).map((one) => attributeGetter(one));
  const key = (item: Value) => getters.map((get) => (flag(sensitive, false) ? get(item) : ignoreCase(get(item))));
  return sorted(toList(value), key, flag(reversed, false));
}

function sum(value: Value, by?: Value, start: Value = 0n): Value {
  const get = attributeGetter(by);
  const items = elements(value);
  if (textOf(start) !== undefined) throw typeError("sum() can't sum strings [use ''.join(seq) instead]");
  let total = start;
  for (const item of items) total = binary("+", total, get(item));
  return total;
}
