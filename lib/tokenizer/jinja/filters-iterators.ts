import { intOf } from "./calls.js";
import { PyError, typeError } from "./errors.js";
import type { Filter } from "./filter-helpers.js";
import { attributeGetter, FILTERS, filter, flag, ignoreCase } from "./filter-helpers.js";
import { allocate } from "./meter.js";
import { floorDivide } from "./numbers.js";
import { DictView } from "./sequences.js";
import { TESTS } from "./tests.js";
import { str } from "./text.js";
import { Dict, elements, Generator, hashOf, type Kwargs, toList, truthy, Undefined, type Value } from "./values.js";

/** Filters that return iterators. As in Python, they are lazy. */
export const ITERATOR_FILTERS: [string, Filter][] = [
  filter(
    "batch",
    "linecount fill_with?",
    (value, size, fill) => new Generator(batch(value, size ?? null, fill ?? null)),
  ),
  filter("items", "", (value) => new Generator(items(value))),
  ["map", (value, args, kwargs) => new Generator(map(value, args, kwargs))],
  ["reject", (value, args, kwargs) => new Generator(select(value, args, kwargs, false, false))],
  ["rejectattr", (value, args, kwargs) => new Generator(select(value, args, kwargs, true, false))],
  ["select", (value, args, kwargs) => new Generator(select(value, args, kwargs, false, true))],
  ["selectattr", (value, args, kwargs) => new Generator(select(value, args, kwargs, true, true))],
  filter(
    "slice",
    "slices fill_with?",
    (value, count, fill) => new Generator(slices(value, count ?? null, fill ?? null)),
  ),
  filter("unique", "case_sensitive? attribute?", (value, sensitive, by) => new Generator(unique(value, sensitive, by))),
];

function* batch(value: Value, size: Value, fill: Value): IterableIterator<Value> {
  let group: Value[] = [];
  for (const item of elements(value)) {
    if (BigInt(group.length) === size || Number(group.length) === size) {
      yield group;
      group = [];
    }
    allocate(1);
    group.push(item);
  }
  if (group.length === 0) return;
  const missing = fill === null ? 0 : Number(intOf(size, 0n)) - group.length;
  if (missing > 0) {
    allocate(missing);
    group.push(...new Array<Value>(missing).fill(fill));
  }
  yield group;
}

function* slices(value: Value, count: Value, fill: Value): IterableIterator<Value> {
  const list = toList(value);
  const parts = intOf(count, 0n);
  if (parts === 0n) throw new PyError("ZeroDivisionError", "integer division or modulo by zero");
  const each = Number(floorDivide(BigInt(list.length), parts));
  const extra = list.length - each * Number(parts);
  let offset = 0;
  for (let i = 0; i < parts; i++) {
    const start = offset + i * each;
    if (i < extra) offset++;
    const part = list.slice(start, offset + (i + 1) * each);
    allocate(part.length + 1);
    if (fill !== null && i >= extra) part.push(fill);
    yield part;
  }
}

function* items(value: Value): IterableIterator<Value> {
  if (value instanceof Undefined) return;
  if (!(value instanceof Dict)) throw typeError("Can only get item pairs from a mapping.");
  yield* elements(new DictView(value, "items"));
}

function* map(value: Value, args: readonly Value[], kwargs: Kwargs): IterableIterator<Value> {
  if (!truthy(value)) return;
  const change = mapping(args, kwargs);
  for (const item of elements(value)) yield change(item);
}

function mapping(args: readonly Value[], kwargs: Kwargs): (item: Value) => Value {
  const by = kwargs.get("attribute");
  if (args.length === 0 && by !== undefined) {
    const unknown = [...kwargs.keys()].find((name) => name !== "attribute" && name !== "default");
    if (unknown !== undefined) throw argumentError(`Unexpected keyword argument '${unknown}'`);
    return attributeGetter(by, kwargs.get("default") ?? null);
  }
  if (args.length === 0) throw argumentError("map requires a filter argument");
  const [name, ...rest] = args;
  return (item) => named("filter", FILTERS, name)(item, rest, kwargs);
}

function argumentError(message: string): PyError {
  return new PyError("FilterArgumentError", message);
}

function named<T>(kind: string, all: ReadonlyMap<string, T>, name: Value): T {
  hashOf(name);
  const found = all.get(typeof name === "string" ? name : "");
  if (found) return found;
  const shown = typeof name === "string" ? `'${name}'` : name instanceof Undefined ? "Undefined" : str(name);
  throw new PyError("TemplateRuntimeError", `No ${kind} named ${shown}.`);
}

function* select(
  value: Value,
  args: readonly Value[],
  kwargs: Kwargs,
  byAttribute: boolean,
  wanted: boolean,
): IterableIterator<Value> {
  if (!truthy(value)) return;
  if (byAttribute && args.length === 0) throw argumentError("Missing parameter for attribute name");
  const get = byAttribute ? attributeGetter(args[0]) : (item: Value) => item;
  const [name, ...rest] = byAttribute ? args.slice(1) : args;
  for (const item of elements(value)) {
    const tested = get(item);
    const result = name === undefined ? truthy(tested) : truthy(named("test", TESTS, name)(tested, rest, kwargs));
    if (result === wanted) yield item;
  }
}

function* unique(value: Value, sensitive?: Value, by?: Value): IterableIterator<Value> {
  const get = attributeGetter(by);
  const seen = new Set<string | object>();
  for (const item of elements(value)) {
    const key = hashOf(flag(sensitive, false) ? get(item) : ignoreCase(get(item)));
    if (seen.has(key)) continue;
    allocate(1);
    seen.add(key);
    yield item;
  }
}
