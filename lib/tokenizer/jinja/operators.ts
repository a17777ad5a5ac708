import { PyError, typeError, UnsupportedFeature } from "./errors.js";
import { formatPercent } from "./format-percent.js";
import { allocate, nested, scan, search, step } from "./meter.js";
import { bitLength, divideInts, floorDivide, fractionOf, intToFloat } from "./numbers.js";
import { DictView, Range } from "./sequences.js";
import { escapeHtml } from "./text.js";
import {
  asInt,
  Dict,
  elements,
  isPlain,
  lengthOf,
  Markup,
  PyObject,
  Tuple,
  textOf,
  typeName,
  Undefined,
  type Value,
} from "./values.js";

/** Maximum size of an int, in bits. */
const MAX_BITS = 1 << 20;

export type BinaryOperator = "+" | "-" | "*" | "/" | "//" | "%" | "**";
export type Comparison = "eq" | "ne" | "lt" | "lteq" | "gt" | "gteq" | "in" | "notin";

/** == */
export function equal(a: Value, b: Value): boolean {
  step();
  if (isNumber(a) && isNumber(b)) return typeof a === typeof b ? a === b : Number(a) === Number(b) && sameInt(a, b);
  const [textA, textB] = [textOf(a), textOf(b)];
  if (textA !== undefined && textB !== undefined) {
    if (textA.length !== textB.length) return false;
    scan(textA.length);
    return textA === textB;
  }
  if (Array.isArray(a) && Array.isArray(b)) return sameItems(a, b);
  if (a instanceof Tuple && b instanceof Tuple) return sameItems(a.items, b.items);
  if (a instanceof Dict && b instanceof Dict) {
    if (a.size() !== b.size()) return false;
    return nested(() => {
      for (const [key, value] of a.entries()) {
        const other = b.get(key);
        if (other === undefined || !identicalOrEqual(value, other)) return false;
      }
      return true;
    });
  }
  if (a instanceof Range && b instanceof Range) return a.sameAs(b);
  if (a instanceof DictView && b instanceof DictView && a !== b && a.kind !== "values" && b.kind !== "values") {
    const [left, right] = [[...elements(a)], [...elements(b)]];
    return left.length === right.length && left.every((item) => right.some((other) => equal(item, other)));
  }
  return a instanceof PyObject ? a.equals(b) : b instanceof PyObject ? b.equals(a) : a === b;
}

function isNumber(value: Value): value is bigint | number | boolean {
  return typeof value === "bigint" || typeof value === "number" || typeof value === "boolean";
}

/** Whether an int and a float (or bool) that are equal as floats are exactly equal. */
function sameInt(a: bigint | number | boolean, b: bigint | number | boolean): boolean {
  const exact = (value: bigint | number | boolean) => (typeof value === "boolean" ? BigInt(value) : value);
  // JavaScript compares a bigint with a number exactly.
  return !(exact(a) < exact(b)) && !(exact(a) > exact(b));
}

function sameItems(a: readonly Value[], b: readonly Value[]): boolean {
  return a.length === b.length && nested(() => a.every((item, i) => identicalOrEqual(item, b[i])));
}

/** Equality of elements in containers, where an element equals itself: [nan] == [nan] for the same nan. */
function identicalOrEqual(a: Value, b: Value): boolean {
  return (a === b && typeof a === "object") || equal(a, b);
}

/** Whether a < b, <= and so on. @throws PyError TypeError for values without an order */
export function ordered(operator: "<" | "<=" | ">" | ">=", a: Value, b: Value): boolean {
  step();
  const undefinedOne = a instanceof Undefined ? a : b instanceof Undefined ? b : undefined;
  if (undefinedOne) throw undefinedOne.fail();
  if (isNumber(a) && isNumber(b)) return holds(operator, a, b);
  const [textA, textB] = [textOf(a), textOf(b)];
  if (textA !== undefined && textB !== undefined) return holds(operator, compareText(textA, textB), 0);
  const lists = Array.isArray(a) && Array.isArray(b) ? [a, b] : undefined;
  const pair = a instanceof Tuple && b instanceof Tuple ? [a.items, b.items] : lists;
  if (pair) {
    const [left, right] = pair;
    const at = left.findIndex((item, i) => i >= right.length || !identicalOrEqual(item, right[i]));
    if (at < 0 || at >= right.length) return holds(operator, left.length, right.length);
    return nested(() => ordered(operator, left[at], right[at]));
  }
  if (a instanceof DictView && b instanceof DictView) throw new UnsupportedFeature("ordering of dict views");
  throw typeError(`'${operator}' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`);
}

function holds(operator: string, a: bigint | number | boolean, b: bigint | number | boolean): boolean {
  if (operator === "<") return a < b;
  if (operator === "<=") return a <= b;
  return operator === ">" ? a > b : a >= b;
}

/** The order of two strings by code points: negative, 0 or positive. */
function compareText(a: string, b: string): number {
  if (a === b) return 0;
  if (isPlain(a) && isPlain(b)) return a < b ? -1 : 1;
  const [left, right] = [[...a], [...b]];
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const difference = (left[i].codePointAt(0) ?? 0) - (right[i].codePointAt(0) ?? 0);
    if (difference !== 0) return difference;
  }
  return left.length - right.length;
}

/** needle in haystack */
export function contains(haystack: Value, needle: Value): boolean {
  const text = textOf(haystack);
  if (text !== undefined) {
    const part = textOf(needle);
    if (part === undefined) {
      throw typeError(`'in <string>' requires string as left operand, not ${typeName(needle)}`);
    }
    search(text.length, part.length);
    return text.includes(part);
  }
  if (haystack instanceof Dict) return haystack.has(needle);
  if (haystack instanceof DictView && haystack.kind === "keys") return haystack.dict.has(needle);
  if (haystack instanceof Range && asInt(needle) !== undefined) return haystack.includes(asInt(needle) ?? 0n);
  const items = Array.isArray(haystack) || (haystack instanceof PyObject && haystack.iterate());
  if (!items) throw typeError(`argument of type '${typeName(haystack)}' is not iterable`);
  for (const item of elements(haystack)) if (identicalOrEqual(item, needle)) return true;
  return false;
}

export function compare(operator: Comparison, a: Value, b: Value): boolean {
  switch (operator) {
    case "eq":
      return equal(a, b);
    case "ne":
      return !equal(a, b);
    case "lt":
      return ordered("<", a, b);
    case "lteq":
      return ordered("<=", a, b);
    case "gt":
      return ordered(">", a, b);
    case "gteq":
      return ordered(">=", a, b);
    case "in":
      return contains(b, a);
    case "notin":
      return !contains(b, a);
  }
}

export function binary(operator: BinaryOperator, a: Value, b: Value): Value {
  step();
  if (operator === "%" && textOf(a) !== undefined) {
    if (a instanceof Markup) throw new UnsupportedFeature("% of a string marked safe");
    return formatPercent(textOf(a) ?? "", b);
  }
  const undefinedOne = a instanceof Undefined ? a : b instanceof Undefined ? b : undefined;
  if (undefinedOne) throw undefinedOne.fail();
  if (isNumber(a) && isNumber(b)) return arithmetic(operator, a, b);
  if (operator === "+") return add(a, b);
  if (operator === "*") {
    const [sequence, count] = asInt(b) === undefined ? [b, asInt(a)] : [a, asInt(b)];
    const repeated = count === undefined ? undefined : repeat(sequence, count);
    if (repeated !== undefined) return repeated;
    const left = lengthOf(a) !== undefined && isSequence(a);
    if (left || (lengthOf(b) !== undefined && isSequence(b))) {
      throw typeError(`can't multiply sequence by non-int of type '${typeName(left ? b : a)}'`);
    }
  }
  if (operator === "-" && (a instanceof DictView || b instanceof DictView)) {
    throw new UnsupportedFeature("the difference of dict views (a set)");
  }
  const shown = operator === "**" ? "** or pow()" : operator;
  throw typeError(`unsupported operand type(s) for ${shown}: '${typeName(a)}' and '${typeName(b)}'`);
}

function isSequence(value: Value): boolean {
  return textOf(value) !== undefined || Array.isArray(value) || value instanceof Tuple;
}

function add(a: Value, b: Value): Value {
  const [textA, textB] = [textOf(a), textOf(b)];
  if (textA !== undefined && textB !== undefined) {
    if (a instanceof Markup || b instanceof Markup) {
      const safe = (value: Value, text: string) => (value instanceof Markup ? text : escapeHtml(text));
      return new Markup(concat(safe(a, textA), safe(b, textB)));
    }
    return concat(textA, textB);
  }
  if (textA !== undefined && !(a instanceof Markup)) {
    throw typeError(`can only concatenate str (not "${typeName(b)}") to str`);
  }
  if (Array.isArray(a)) {
    if (!Array.isArray(b)) throw typeError(`can only concatenate list (not "${typeName(b)}") to list`);
    allocate(a.length + b.length);
    return a.concat(b);
  }
  if (a instanceof Tuple) {
    if (!(b instanceof Tuple)) throw typeError(`can only concatenate tuple (not "${typeName(b)}") to tuple`);
    allocate(a.items.length + b.items.length);
    return new Tuple([...a.items, ...b.items]);
  }
  throw typeError(`unsupported operand type(s) for +: '${typeName(a)}' and '${typeName(b)}'`);
}

function concat(a: string, b: string): string {
  allocate(a.length + b.length);
  return a + b;
}

function repeat(sequence: Value, count: bigint): Value | undefined {
  const times = count < 0n ? 0 : Number(count);
  const text = textOf(sequence);
  if (text !== undefined) {
    allocate(text.length * times);
    const repeated = text === "" ? "" : text.repeat(times);
    return sequence instanceof Markup ? new Markup(repeated) : repeated;
  }
  const items = sequence instanceof Tuple ? sequence.items : Array.isArray(sequence) ? sequence : undefined;
  if (!items) return undefined;
  allocate(items.length * times);
  const repeated = items.length === 0 ? [] : Array.from({ length: times }, () => items).flat();
  return sequence instanceof Tuple ? new Tuple(repeated) : repeated;
}

function arithmetic(
  operator: BinaryOperator,
  left: bigint | number | boolean,
  right: bigint | number | boolean,
): Value {
  const [a, b] = [left, right].map((value) => (typeof value === "boolean" ? BigInt(value) : value));
  if (typeof a === "bigint" && typeof b === "bigint") return ofInts(operator, a, b);
  return ofFloats(operator, typeof a === "bigint" ? intToFloat(a) : a, typeof b === "bigint" ? intToFloat(b) : b);
}

function ofInts(operator: BinaryOperator, a: bigint, b: bigint): Value {
  if (operator === "+") return a + b;
  if (operator === "-") return a - b;
  if (operator === "*") {
    checkBits(bitLength(a) + bitLength(b));
    return a * b;
  }
  if (operator === "**") return powerOfInts(a, b);
  if (operator === "/") return divideInts(a, b);
  if (b === 0n) {
    throw new PyError(
      "ZeroDivisionError",
      operator === "%" ? "integer modulo by zero" : "integer division or modulo by zero",
    );
  }
  const quotient = floorDivide(a, b);
  return operator === "//" ? quotient : a - quotient * b;
}

function powerOfInts(a: bigint, b: bigint): Value {
  if (b < 0n) {
    if (a === 0n) throw new PyError("ZeroDivisionError", "0.0 cannot be raised to a negative power");
    return ofFloats("**", intToFloat(a), intToFloat(b));
  }
  if (a >= -1n && a <= 1n) return a === -1n && b % 2n === 0n ? 1n : b === 0n ? 1n : a;
  checkBits(Number(b) * bitLength(a));
  return a ** b;
}

/** Ints are unbounded in Python; here they are limited, far beyond what Python's str() would print. */
function checkBits(bits: number): void {
  if (bits > MAX_BITS) throw new UnsupportedFeature(`an int of more than ${MAX_BITS} bits`);
  allocate(Math.ceil(bits / 16));
  scan(bits * Math.sqrt(bits));
}

function ofFloats(operator: BinaryOperator, a: number, b: number): number {
  switch (operator) {
    case "+":
      return a + b;
    case "-":
      return a - b;
    case "*":
      return a * b;
    case "/":
      if (b === 0) throw new PyError("ZeroDivisionError", "float division by zero");
      return a / b;
    case "**":
      return powerOfFloats(a, b);
    default: {
      if (b === 0) {
        throw new PyError("ZeroDivisionError", operator === "%" ? "float modulo" : "float floor division by zero");
      }
      let remainder = a % b;
      if (remainder === 0) remainder = b < 0 ? -0 : 0;
      else if (remainder < 0 !== b < 0) remainder += b;
      if (operator === "%") return remainder;
      const quotient = (a - remainder) / b;
      if (quotient === 0) return a / b < 0 || Object.is(a / b, -0) ? -0 : 0;
      const floor = Math.floor(quotient);
      return quotient - floor > 0.5 ? floor + 1 : floor;
    }
  }
}

function powerOfFloats(a: number, b: number): number {
  if (b === 0 || a === 1) return 1;
  if (a === 0 && b < 0) throw new PyError("ZeroDivisionError", "0.0 cannot be raised to a negative power");
  if (a === -1 && !Number.isFinite(b) && !Number.isNaN(b)) return 1;
  if (a < 0 && Number.isFinite(a) && Number.isFinite(b) && !Number.isInteger(b)) {
    throw new UnsupportedFeature("a complex number (a negative number to a fractional power)");
  }
  const result = exactPower(a, b);
  if (!Number.isFinite(result) && Number.isFinite(a) && Number.isFinite(b)) {
    throw new PyError("OverflowError", "(34, 'Numerical result out of range')");
  }
  return result;
}

/** Maximum integer exponent of a float power. */
const MAX_EXPONENT = 4096;

/** a ** b rounded once, as C's pow() does nearly always; JavaScript's operator is less exact. */
function exactPower(a: number, b: number): number {
  if (!Number.isFinite(a) || !Number.isFinite(b) || a === 0 || Math.abs(a) === 1) return a ** b;
  if (b === 0.5) return Math.sqrt(a);
  const estimate = a ** b;
  if (estimate === 0 || !Number.isFinite(estimate)) return estimate;
  if (!Number.isInteger(b) || Math.abs(b) > MAX_EXPONENT) {
    throw new UnsupportedFeature("a float to a power that is not a small integer");
  }
  const [numerator, denominator] = fractionOf(Math.abs(a));
  const exponent = BigInt(Math.abs(b));
  checkBits((bitLength(numerator) + bitLength(denominator)) * Number(exponent));
  const [n, d] = [numerator ** exponent, denominator ** exponent];
  const size = b > 0 ? divideInts(n, d) : divideInts(d, n);
  return a < 0 && b % 2 !== 0 ? -size : size;
}

/** + or - before a value. */
export function unary(operator: "+" | "-", value: Value): Value {
  if (value instanceof Undefined) throw value.fail();
  if (!isNumber(value)) throw typeError(`bad operand type for unary ${operator}: '${typeName(value)}'`);
  const number = typeof value === "boolean" ? BigInt(value) : value;
  return operator === "-" ? -number : number;
}
