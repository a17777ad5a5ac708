import { PyError, typeError, UnsupportedFeature } from "./errors.js";
import { allocate, scan, step } from "./meter.js";

/**
 * A Python value. An int is a bigint and a float a number, so that 1 and 1.0 are distinct; a str is a string; a list is
 * an array; None is null. All other values are PyObjects.
 */
export type Value = null | boolean | bigint | number | string | Value[] | PyObject;

/** Arguments by name. */
export type Kwargs = ReadonlyMap<string, Value>;

/** A Python object. The defaults are those of a plain object. */
export abstract class PyObject {
  /** The name of its class, as in messages. */
  abstract readonly typeName: string;
  /** The implementation of a call; undefined if it is not callable. */
  readonly call?: (args: readonly Value[], kwargs: Kwargs) => Value;

  /** Its repr(). Python's default contains a memory address, so it is not supported. */
  repr(): string {
    throw new UnsupportedFeature(`printing an object of type '${this.typeName}'`);
  }

  str(): string {
    return this.repr();
  }

  truthy(): boolean {
    return true;
  }

  /** Its elements, undefined if it cannot be iterated over. */
  iterate(): Iterator<Value> | undefined {
    return undefined;
  }

  /** Its len(), undefined if it has none. */
  size(): number | undefined {
    return undefined;
  }

  /**
   * An attribute that a template may read, undefined if there is none. Names with a leading underscore are handled
   * elsewhere.
   */
  attribute(_name: string): Value | undefined {
    return undefined;
  }

  /** Its element for a key. */
  item(_key: Value): Value {
    throw typeError(`'${this.typeName}' object is not subscriptable`);
  }

  equals(other: Value): boolean {
    return this === other;
  }
}

/** A Python tuple. */
export class Tuple extends PyObject {
  readonly typeName: string = "tuple";

  constructor(readonly items: readonly Value[]) {
    super();
  }

  override truthy(): boolean {
    return this.items.length > 0;
  }

  override iterate(): Iterator<Value> {
    return this.items[Symbol.iterator]();
  }

  override size(): number {
    return this.items.length;
  }
}

/** A Python dict: it keeps its order, and 1, 1.0 and true are one key. */
export class Dict extends PyObject {
  readonly typeName = "dict";
  readonly #entries = new Map<string | object, [key: Value, value: Value]>();

  static of(entries: Iterable<readonly [Value, Value]>): Dict {
    const dict = new Dict();
    for (const [key, value] of entries) dict.set(key, value);
    return dict;
  }

  set(key: Value, value: Value): void {
    const hash = hashOf(key);
    const entry = this.#entries.get(hash);
    if (entry) entry[1] = value;
    else {
      allocate(1);
      this.#entries.set(hash, [key, value]);
    }
  }

  get(key: Value): Value | undefined {
    return this.#entries.get(hashOf(key))?.[1];
  }

  has(key: Value): boolean {
    return this.#entries.has(hashOf(key));
  }

  entries(): IterableIterator<[Value, Value]> {
    return this.#entries.values();
  }

  keys(): Value[] {
    return Array.from(this.#entries.values(), ([key]) => key);
  }

  values(): Value[] {
    return Array.from(this.#entries.values(), ([, value]) => value);
  }

  override truthy(): boolean {
    return this.#entries.size > 0;
  }

  override *iterate(): Iterator<Value> {
    for (const [key] of this.#entries.values()) yield key;
  }

  override size(): number {
    return this.#entries.size;
  }

  override item(key: Value): Value {
    const value = this.get(key);
    if (value === undefined) throw new PyError("KeyError", typeof key === "string" ? `'${key}'` : "no such key");
    return value;
  }
}

/** A missing value: it prints as an empty text and is false; all other operations raise. */
export class Undefined extends PyObject {
  readonly typeName = "Undefined";

  /** @param describe the message of the error; @param kind the error's class */
  constructor(
    readonly describe: () => string,
    readonly kind = "UndefinedError",
  ) {
    super();
  }

  static named(name: string): Undefined {
    return new Undefined(() => `'${name}' is undefined`);
  }

  fail(): PyError {
    return new PyError(this.kind, this.describe());
  }

  override repr(): string {
    return "Undefined";
  }

  override str(): string {
    return "";
  }

  override truthy(): boolean {
    return false;
  }

  override iterate(): Iterator<Value> {
    return [][Symbol.iterator]();
  }

  override size(): number {
    return 0;
  }

  override item(): Value {
    throw this.fail();
  }

  override equals(other: Value): boolean {
    return other instanceof Undefined;
  }
}

/** A callable value. */
export class Callable extends PyObject {
  constructor(
    readonly typeName: string,
    readonly name: string,
    override readonly call: (args: readonly Value[], kwargs: Kwargs) => Value,
    readonly text?: string,
  ) {
    super();
  }

  override repr(): string {
    return this.text ?? super.repr();
  }
}

/** A lazy sequence that can be read once, such as the result of map and select. */
export class Generator extends PyObject {
  readonly #iterator: Iterator<Value>;

  constructor(
    items: Iterable<Value> | Iterator<Value>,
    readonly typeName = "generator",
  ) {
    super();
    this.#iterator = Symbol.iterator in items ? items[Symbol.iterator]() : items;
  }

  override iterate(): Iterator<Value> {
    // Without return(): leaving a loop early does not end the generator, as in Python.
    return { next: () => this.#iterator.next() };
  }
}

/**
 * A str marked as safe HTML. It differs from a str only in autoescaping, which is off, and in concatenation with other
 * text.
 */
export class Markup extends PyObject {
  readonly typeName = "Markup";

  constructor(readonly text: string) {
    super();
  }

  override str(): string {
    return this.text;
  }

  override truthy(): boolean {
    return this.text !== "";
  }
}

/** The class name of a value, as in Python's messages. */
export function typeName(value: Value): string {
  if (value === null) return "NoneType";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "bigint") return "int";
  if (typeof value === "number") return "float";
  if (typeof value === "string") return "str";
  if (Array.isArray(value)) return "list";
  return value.typeName;
}

export function truthy(value: Value): boolean {
  if (value === null) return false;
  if (Array.isArray(value)) return value.length > 0;
  if (value instanceof PyObject) return value.truthy();
  return Boolean(value) || Number.isNaN(value);
}

/** The text of a str or Markup, undefined for other values. */
export function textOf(value: Value): string | undefined {
  if (typeof value === "string") return value;
  return value instanceof Markup ? value.text : undefined;
}

/** The value as an int by __index__: an int or a bool; otherwise undefined. */
export function asInt(value: Value): bigint | undefined {
  if (typeof value === "bigint") return value;
  return typeof value === "boolean" ? BigInt(value) : undefined;
}

/** @throws PyError TypeError if it cannot be iterated over */
export function iterate(value: Value): Iterator<Value> {
  if (Array.isArray(value)) return value[Symbol.iterator]();
  const text = textOf(value);
  if (text !== undefined) return text[Symbol.iterator]();
  const iterator = value instanceof PyObject ? value.iterate() : undefined;
  if (!iterator) throw typeError(`'${typeName(value)}' object is not iterable`);
  return iterator;
}

/** Yields the elements, each counted as a step. */
export function* elements(value: Value): IterableIterator<Value> {
  const iterator = iterate(value);
  for (let next = iterator.next(); !next.done; next = iterator.next()) {
    step();
    yield next.value;
  }
}

/** All elements as a new list. */
export function toList(value: Value): Value[] {
  const known = lengthOf(value);
  if (known !== undefined) allocate(known);
  const list: Value[] = [];
  for (const element of elements(value)) {
    if (known === undefined) allocate(1);
    list.push(element);
  }
  return list;
}

/** len(), undefined if the value has none. Characters are code points. */
export function lengthOf(value: Value): number | undefined {
  if (Array.isArray(value)) return value.length;
  const text = textOf(value);
  if (text !== undefined) return codePoints(text);
  return value instanceof PyObject ? value.size() : undefined;
}

const SURROGATES = /[\ud800-\udfff]/;

/** Whether the string's indices are code point indices. */
export function isPlain(text: string): boolean {
  scan(text.length);
  return !SURROGATES.test(text);
}

export function codePoints(text: string): number {
  if (isPlain(text)) return text.length;
  let count = 0;
  for (const _ of text) count++;
  return count;
}

/** A hash with equal values for equal keys. @throws PyError TypeError for an unhashable value */
export function hashOf(key: Value): string | object {
  if (typeof key === "string") return `s${key}`;
  if (key === null) return "None";
  if (typeof key === "number") return Number.isInteger(key) ? `n${BigInt(key)}` : `f${key}`;
  if (typeof key === "bigint" || typeof key === "boolean") return `n${BigInt(key)}`;
  if (key instanceof Markup) return `s${key.text}`;
  if (key instanceof Undefined) return "Undefined";
  if (key instanceof Tuple) {
    const parts = key.items.map((item) => {
      const part = hashOf(item);
      return typeof part === "string" ? `${part.length}:${part}` : `o${identityOf(part)}`;
    });
    return `t${parts.join(",")}`;
  }
  if (Array.isArray(key) || key instanceof Dict) throw typeError(`unhashable type: '${typeName(key)}'`);
  return key;
}

const identities = new WeakMap<object, number>();
let lastIdentity = 0;

function identityOf(object: object): number {
  let identity = identities.get(object);
  if (identity === undefined) {
    identity = ++lastIdentity;
    identities.set(object, identity);
  }
  return identity;
}
