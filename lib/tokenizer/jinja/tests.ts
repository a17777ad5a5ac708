import { signature } from "./calls.js";
import { UnsupportedFeature } from "./errors.js";
import { FILTERS } from "./filter-helpers.js";
import { binary, contains, equal, ordered } from "./operators.js";
import { Range } from "./sequences.js";
import { isLower, isUpper } from "./string-case.js";
import { str } from "./text.js";
import {
  asInt,
  Dict,
  hashOf,
  iterate,
  type Kwargs,
  lengthOf,
  Markup,
  PyObject,
  Tuple,
  textOf,
  Undefined,
  type Value,
} from "./values.js";

/** A test, as used after `is`. */
export type Test = (value: Value, args: readonly Value[], kwargs: Kwargs) => Value;

function test(name: string, parameters: string, body: (value: Value, other: Value) => boolean): [string, Test] {
  const bind = signature(name, parameters);
  return [name, (value, args, kwargs) => body(value, bind(args, kwargs)[0] ?? null)];
}

const isNumber = (value: Value) => asInt(value) !== undefined || typeof value === "number";
const lower = (a: Value, b: Value) => ordered("<", a, b);
const greater = (a: Value, b: Value) => ordered(">", a, b);

/** Every test of jinja2, by name. */
export const TESTS: Map<string, Test> = new Map([
  test("odd", "", (value) => equal(binary("%", value, 2n), 1n)),
  test("even", "", (value) => equal(binary("%", value, 2n), 0n)),
  test("divisibleby", "num", (value, by) => equal(binary("%", value, by), 0n)),
  test("defined", "", (value) => !(value instanceof Undefined)),
  test("undefined", "", (value) => value instanceof Undefined),
  test("none", "", (value) => value === null),
  test("boolean", "", (value) => typeof value === "boolean"),
  test("false", "", (value) => value === false),
  test("true", "", (value) => value === true),
  test("integer", "", (value) => typeof value === "bigint"),
  test("float", "", (value) => typeof value === "number"),
  test("lower", "", (value) => isLower(str(value))),
  test("upper", "", (value) => isUpper(str(value))),
  test("string", "", (value) => textOf(value) !== undefined),
  test("mapping", "", (value) => value instanceof Dict),
  test("number", "", isNumber),
  test("sequence", "", isSequence),
  test("iterable", "", isIterable),
  test(
    "callable",
    "",
    (value) => value instanceof Undefined || (value instanceof PyObject && value.call !== undefined),
  ),
  test("sameas", "other", isSame),
  test("escaped", "", (value) => value instanceof Markup),
  test("in", "seq", (value, sequence) => contains(sequence, value)),
  test("==", "/ b", equal),
  test("eq", "/ b", equal),
  test("equalto", "/ b", equal),
  test("!=", "/ b", (a, b) => !equal(a, b)),
  test("ne", "/ b", (a, b) => !equal(a, b)),
  test(">", "/ b", greater),
  test("gt", "/ b", greater),
  test("greaterthan", "/ b", greater),
  test("ge", "/ b", (a, b) => ordered(">=", a, b)),
  test(">=", "/ b", (a, b) => ordered(">=", a, b)),
  test("<", "/ b", lower),
  test("lt", "/ b", lower),
  test("lessthan", "/ b", lower),
  test("<=", "/ b", (a, b) => ordered("<=", a, b)),
  test("le", "/ b", (a, b) => ordered("<=", a, b)),
]);

// Whether a test or filter of that name exists. Filters are looked up lazily, because they use the tests.
const exists = (names: () => ReadonlyMap<string, unknown>) => (value: Value) => {
  hashOf(value);
  const name = textOf(value);
  return name !== undefined && names().has(name);
};
for (const [name, one] of [
  test(
    "test",
    "",
    exists(() => TESTS),
  ),
  test(
    "filter",
    "",
    exists(() => FILTERS),
  ),
]) {
  TESTS.set(name, one);
}

/** Whether the value has a length and can be indexed, which includes dicts. */
function isSequence(value: Value): boolean {
  if (lengthOf(value) === undefined) return false;
  if (value instanceof Undefined) return true;
  const kinds = [Tuple, Dict, Range, Markup];
  return typeof value === "string" || Array.isArray(value) || kinds.some((kind) => value instanceof kind);
}

function isIterable(value: Value): boolean {
  try {
    iterate(value);
    return true;
  } catch {
    return false;
  }
}

/** Python's `is`. Whether equal strings or numbers are the same object is an implementation detail of CPython. */
function isSame(a: Value, b: Value): boolean {
  const isSingle = (value: Value) => value === null || typeof value === "boolean";
  if (isSingle(a) || isSingle(b)) return a === b;
  if (a instanceof PyObject || b instanceof PyObject || Array.isArray(a) || Array.isArray(b)) {
    const isTuple = a instanceof Tuple && b instanceof Tuple && a !== b && equal(a, b);
    if (isTuple) throw new UnsupportedFeature("the test sameas of equal tuples");
    return a === b;
  }
  if (typeof a !== typeof b || a !== b) return false;
  const isCached = typeof a === "bigint" && a >= -5n && a <= 256n;
  if (isCached) return true;
  throw new UnsupportedFeature("the test sameas of equal strings or numbers");
}
