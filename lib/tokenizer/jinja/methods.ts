import { intOf, method } from "./calls.js";
import { PyError, typeError, UnsupportedFeature, valueError } from "./errors.js";
import { allocate } from "./meter.js";
import { bitLength, fractionOf } from "./numbers.js";
import { equal } from "./operators.js";
import { DictView, Range, slice } from "./sequences.js";
import { repr } from "./text.js";
import { asInt, type Callable, Dict, elements, lengthOf, Tuple, type Value } from "./values.js";

/** Methods that modify their object, which Jinja's sandbox forbids. */
export const MUTATING: Readonly<Record<string, ReadonlySet<string>>> = {
  list: new Set(["append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"]),
  dict: new Set(["clear", "pop", "popitem", "setdefault", "update"]),
};

/** A read-only method of a list, tuple or range. */
export function sequenceMethod(value: Value[] | Tuple | Range, name: string): Callable | undefined {
  if (name === "count") {
    return method(name, "/ value", (wanted) => {
      let count = 0n;
      for (const item of elements(value)) if (equal(item, wanted ?? null)) count++;
      return count;
    });
  }
  if (name === "index") {
    const parameters = value instanceof Range ? "/ value" : "/ value start? stop?";
    return method(name, parameters, (wanted, start, stop) => indexOf(value, wanted ?? null, start, stop));
  }
  if (name === "copy" && Array.isArray(value)) {
    return method(name, "/", () => {
      allocate(value.length);
      return [...value];
    });
  }
  return undefined;
}

function indexOf(
  value: Value[] | Tuple | Range,
  wanted: Value,
  start: Value | undefined,
  stop: Value | undefined,
): bigint {
  const length = BigInt(lengthOf(value) ?? 0);
  const from = intOf(start, 0n);
  const first = from < 0n ? (from + length < 0n ? 0n : from + length) : from;
  let at = first;
  for (const item of elements(slice(value, first, stop === undefined ? null : intOf(stop, 0n), null))) {
    if (equal(item, wanted)) return at;
    at++;
  }
  if (value instanceof Tuple) throw valueError("tuple.index(x): x not in tuple");
  throw valueError(`${repr(wanted)} is not in ${value instanceof Range ? "range" : "list"}`);
}

/** A read-only method of a dict. */
export function dictMethod(dict: Dict, name: string): Callable | undefined {
  switch (name) {
    case "get":
      return method(name, "/ key default?", (key, otherwise) => dict.get(key ?? null) ?? otherwise ?? null);
    case "keys":
    case "values":
    case "items":
      return method(name, "/", () => new DictView(dict, name));
    case "copy":
      return method(name, "/", () => Dict.of(dict.entries()));
    case "fromkeys":
      return method(name, "/ iterable value?", (keys, value) => fromKeys(keys ?? null, value ?? null));
    default:
      return undefined;
  }
}

/** dict.fromkeys() */
export function fromKeys(keys: Value, value: Value): Dict {
  const dict = new Dict();
  for (const key of elements(keys)) dict.set(key, value);
  return dict;
}

/** An attribute of an int (or bool) or a float. */
export function numberAttribute(value: boolean | bigint | number, name: string): Value | undefined {
  const int = asInt(value);
  if (name === "real") return int ?? value;
  if (name === "imag") return int === undefined ? 0 : 0n;
  if (name === "conjugate") return method(name, "/", () => int ?? value);
  if (name === "as_integer_ratio") return method(name, "/", () => new Tuple(integerRatio(value)));
  if (int !== undefined) {
    if (name === "numerator") return int;
    if (name === "denominator") return 1n;
    if (name === "bit_length") return method(name, "/", () => BigInt(bitLength(int)));
    if (name === "bit_count") {
      return method(name, "/", () => BigInt((int < 0n ? -int : int).toString(2).replaceAll("0", "").length));
    }
    if (name === "to_bytes" || name === "from_bytes") throw new UnsupportedFeature(`the method int.${name}`);
    return undefined;
  }
  if (name === "is_integer") return method(name, "/", () => Number.isInteger(value));
  if (name === "hex" || name === "fromhex") throw new UnsupportedFeature(`the method float.${name}`);
  return undefined;
}

function integerRatio(value: boolean | bigint | number): Value[] {
  const int = asInt(value);
  if (int !== undefined) return [int, 1n];
  const float = Number(value);
  if (Number.isNaN(float)) throw valueError("cannot convert NaN to integer ratio");
  if (!Number.isFinite(float)) throw new PyError("OverflowError", "cannot convert Infinity to integer ratio");
  let [numerator, denominator] = fractionOf(float);
  while (denominator > 1n && numerator % 2n === 0n) [numerator, denominator] = [numerator / 2n, denominator / 2n];
  return numerator === 0n ? [0n, 1n] : [numerator, denominator];
}

/** dict(...): from a mapping or pairs, and keyword arguments. */
export function makeDict(args: readonly Value[], kwargs: ReadonlyMap<string, Value>): Dict {
  if (args.length > 1) throw typeError(`dict expected at most 1 argument, got ${args.length}`);
  const dict = new Dict();
  const [source] = args;
  if (source instanceof Dict) for (const [key, value] of source.entries()) dict.set(key, value);
  else if (source !== undefined) {
    let at = 0;
    for (const pair of elements(source)) {
      const items = [...elementsOrFail(pair, at)];
      if (items.length !== 2) {
        throw valueError(`dictionary update sequence element #${at} has length ${items.length}; 2 is required`);
      }
      dict.set(items[0], items[1]);
      at++;
    }
  }
  for (const [key, value] of kwargs) dict.set(key, value);
  return dict;
}

function elementsOrFail(pair: Value, at: number): Iterable<Value> {
  try {
    return elements(pair);
  } catch {
    throw typeError(`cannot convert dictionary update sequence element #${at} to a sequence`);
  }
}
