import { PyError, typeError, valueError } from "./errors.js";
import { allocate, scan } from "./meter.js";
import { intText } from "./numbers.js";
import { repr } from "./text.js";
import {
  asInt,
  type Dict,
  isPlain,
  Markup,
  PyObject,
  Tuple,
  textOf,
  typeName,
  Undefined,
  type Value,
} from "./values.js";

/** Maximum number of elements of range() in Jinja's sandbox. */
const MAX_RANGE = 100_000n;

/** A Python range. */
export class Range extends PyObject {
  readonly typeName = "range";
  readonly length: number;

  private constructor(
    readonly start: bigint,
    readonly stop: bigint,
    readonly step: bigint,
  ) {
    super();
    const span = step > 0n ? stop - start : start - stop;
    const size = step > 0n ? step : -step;
    const length = span > 0n ? (span + size - 1n) / size : 0n;
    if (length > MAX_RANGE) {
      const rule = `The sandbox blocks ranges larger than MAX_RANGE (${MAX_RANGE}).`;
      throw new PyError("OverflowError", `Range too big. ${rule}`);
    }
    this.length = Number(length);
  }

  static of(...args: readonly Value[]): Range {
    if (args.length === 0) throw typeError("range expected at least 1 argument, got 0");
    if (args.length > 3) throw typeError(`range expected at most 3 arguments, got ${args.length}`);
    const numbers = args.map((value) => {
      const number = asInt(value);
      if (number === undefined) throw typeError(`'${typeName(value)}' object cannot be interpreted as an integer`);
      return number;
    });
    const [start, stop] = numbers.length === 1 ? [0n, numbers[0]] : numbers;
    const step = numbers[2] ?? 1n;
    if (step === 0n) throw valueError("range() arg 3 must not be zero");
    return new Range(start, stop, step);
  }

  at(index: number): bigint {
    return this.start + BigInt(index) * this.step;
  }

  includes(value: bigint): boolean {
    const offset = value - this.start;
    return offset % this.step === 0n && offset / this.step >= 0n && offset / this.step < BigInt(this.length);
  }

  sameAs(other: Range): boolean {
    if (this.length !== other.length || this.length === 0) return this.length === other.length;
    return this.start === other.start && (this.length === 1 || this.step === other.step);
  }

  override repr(): string {
    const step = this.step === 1n ? "" : `, ${intText(this.step)}`;
    return `range(${intText(this.start)}, ${intText(this.stop)}${step})`;
  }

  override truthy(): boolean {
    return this.length > 0;
  }

  override *iterate(): Iterator<Value> {
    for (let i = 0; i < this.length; i++) yield this.at(i);
  }

  override size(): number {
    return this.length;
  }

  override attribute(name: string): Value | undefined {
    return name === "start" || name === "stop" || name === "step" ? this[name] : undefined;
  }
}

/** The result of dict.keys(), values() and items(). */
export class DictView extends PyObject {
  readonly typeName: string;

  constructor(
    readonly dict: Dict,
    readonly kind: "keys" | "values" | "items",
  ) {
    super();
    this.typeName = `dict_${kind}`;
  }

  list(): Value[] {
    allocate(this.dict.size());
    if (this.kind === "keys") return this.dict.keys();
    if (this.kind === "values") return this.dict.values();
    return Array.from(this.dict.entries(), (entry) => new Tuple([...entry]));
  }

  override repr(): string {
    return `${this.typeName}(${repr(this.list())})`;
  }

  override truthy(): boolean {
    return this.dict.truthy();
  }

  override iterate(): Iterator<Value> {
    return this.list()[Symbol.iterator]();
  }

  override size(): number {
    return this.dict.size();
  }
}

/** value[key], for a key that is not a slice. @throws PyError TypeError, KeyError or IndexError as in Python */
export function itemOf(value: Value, key: Value): Value {
  const text = textOf(value);
  if (text === undefined && !Array.isArray(value) && !(value instanceof Tuple) && !(value instanceof Range)) {
    if (value instanceof PyObject) return value.item(key);
    throw typeError(`'${typeName(value)}' object is not subscriptable`);
  }
  const kind = text === undefined ? typeName(value) : "string";
  const index = asInt(key);
  if (index === undefined) throw typeError(`${kind} indices must be integers or slices, not ${typeName(key)}`);
  const at = (length: number): number => {
    const position = index < 0n ? BigInt(length) + index : index;
    if (position < 0n || position >= length) throw new PyError("IndexError", `${kind} index out of range`);
    return Number(position);
  };
  if (text !== undefined) {
    const letters = isPlain(text) ? text : lettersOf(text);
    const letter = letters[at(letters.length)];
    return value instanceof Markup ? new Markup(letter) : letter;
  }
  if (value instanceof Range) return value.at(at(value.length));
  const items = value instanceof Tuple ? value.items : (value as Value[]);
  return items[at(items.length)];
}

function lettersOf(text: string): string[] {
  allocate(text.length);
  return [...text];
}

/** value[start:stop:step]; each part may be null. */
export function slice(value: Value, start: Value, stop: Value, step: Value): Value {
  if (value instanceof Undefined) throw value.fail();
  const text = textOf(value);
  const isList = Array.isArray(value) || value instanceof Tuple || value instanceof Range;
  if (text === undefined && !isList) {
    if (typeName(value) === "dict") throw typeError("unhashable type: 'slice'");
    throw typeError(`'${typeName(value)}' object is not subscriptable`);
  }
  if (text !== undefined && isPlain(text)) {
    const { from, to, by } = sliceBounds(text.length, start, stop, step);
    if (by === 1) {
      const part = text.slice(from, Math.max(from, to));
      allocate(part.length);
      return value instanceof Markup ? new Markup(part) : part;
    }
    const letters = pick(text, from, to, by).join("");
    return value instanceof Markup ? new Markup(letters) : letters;
  }
  if (text !== undefined) {
    const letters = lettersOf(text);
    const { from, to, by } = sliceBounds(letters.length, start, stop, step);
    const part = pick(letters, from, to, by).join("");
    return value instanceof Markup ? new Markup(part) : part;
  }
  if (value instanceof Range) {
    const { from, to, by } = sliceBounds(value.length, start, stop, step);
    return Range.of(value.at(from), value.at(to), value.step * BigInt(by));
  }
  const items = value instanceof Tuple ? value.items : (value as Value[]);
  const { from, to, by } = sliceBounds(items.length, start, stop, step);
  const picked = pick(items, from, to, by);
  return value instanceof Tuple ? new Tuple(picked) : picked;
}

function pick<T>(
  items: { readonly length: number; readonly [index: number]: T },
  from: number,
  to: number,
  by: number,
): T[] {
  const count = Math.max(0, Math.ceil((to - from) / by));
  allocate(count);
  scan(count);
  return Array.from({ length: count }, (_, i) => items[from + i * by]);
}

/** The bounds of a slice in a sequence, clamped as Python's slice.indices() does. */
function sliceBounds(length: number, start: Value, stop: Value, step: Value): { from: number; to: number; by: number } {
  const by = bound(step) ?? 1n;
  if (by === 0n) throw valueError("slice step cannot be zero");
  const size = BigInt(length);
  const [lowest, highest] = by > 0n ? [0n, size] : [-1n, size - 1n];
  const clamp = (value: bigint | undefined, otherwise: bigint) => {
    if (value === undefined) return otherwise;
    const position = value < 0n ? value + size : value;
    return position < lowest ? lowest : position > highest ? highest : position;
  };
  const from = clamp(bound(start), by > 0n ? lowest : highest);
  const to = clamp(bound(stop), by > 0n ? highest : lowest);
  const clamped = by > size + 1n ? size + 1n : by < -size - 1n ? -size - 1n : by;
  return { from: Number(from), to: Number(to), by: Number(clamped) };
}

function bound(value: Value): bigint | undefined {
  if (value === null) return undefined;
  const number = asInt(value);
  if (number === undefined) throw typeError("slice indices must be integers or None or have an __index__ method");
  return number;
}
