import { PyError, typeError } from "./errors.js";
import { allocate, nested } from "./meter.js";
import { makeDict } from "./methods.js";
import { equal } from "./operators.js";
import { quote, repr } from "./text.js";
import {
  Callable,
  Dict,
  elements,
  type Kwargs,
  lengthOf,
  PyObject,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from "./values.js";

/** The value of an unset variable. */
export const MISSING = Symbol("missing");
export type Slot = Value | typeof MISSING;

/** Output buffer, and its length. */
export class Output {
  readonly #parts: string[] = [];
  length = 0;

  write(text: string): void {
    if (text === "") return;
    allocate(text.length);
    this.#parts.push(text);
    this.length += text.length;
  }

  text(): string {
    return this.#parts.join("");
  }
}

/** The scope of names that no frame defines: variables set at the template's top level, then its inputs. */
export class Context {
  readonly vars = new Map<string, Value>();

  constructor(readonly given: ReadonlyMap<string, Value>) {}

  resolve(name: string): Slot {
    return (
      this.vars.get(name) ?? this.given.get(name) ?? (this.vars.has(name) || this.given.has(name) ? null : MISSING)
    );
  }

  /** A context for a scoped block, which also includes the frame's variables. */
  derived(locals: ReadonlyMap<string, Slot>): Context {
    const given = new Map([...this.given, ...this.vars]);
    for (const [name, value] of locals) if (value !== MISSING) given.set(name, value);
    return new Context(given);
  }
}

/** State shared by all scopes of one rendering. */
export interface Run {
  /** The output of the template's top level. */
  readonly root: Output;
  /** Start and end of generation blocks in the output. */
  readonly spans: [start: number, end: number][];
}

/** The variables of one call of a template, a macro or a recursive loop. */
export class Scope {
  readonly vars = new Map<string, Slot>();

  constructor(
    readonly run: Run,
    readonly context: Context,
    readonly outer?: Scope,
  ) {}

  inner(): Scope {
    return new Scope(this.run, this.context, this);
  }

  get(target: string): Slot {
    for (let scope: Scope | undefined = this; scope; scope = scope.outer) {
      const value = scope.vars.get(target);
      if (value !== undefined) return value;
    }
    throw new PyError("NameError", `the variable ${target.replace(/^\d+_/, "")} is read before it is set`);
  }

  set(target: string, value: Slot): void {
    this.vars.set(target, value);
  }
}

/** The variable `loop` of a for loop. */
export class LoopContext extends PyObject {
  readonly typeName = "LoopContext";
  override readonly call: (args: readonly Value[], kwargs: Kwargs) => Value;
  index0 = -1;
  #iterator: Iterator<Value>;
  #length: number | undefined;
  #after: Slot = MISSING;
  #current: Slot = MISSING;
  #before: Slot = MISSING;
  #changed: Value | undefined;

  constructor(
    readonly iterable: Value,
    recurse: ((iterable: Value, depth0: number) => string) | undefined,
    readonly depth0: number,
  ) {
    super();
    this.#iterator = elements(iterable);
    this.call = (args) => {
      if (!recurse) throw typeError("The loop must have the 'recursive' marker to be called recursively.");
      if (args.length !== 1) throw typeError("a recursive loop takes one argument");
      return nested(() => recurse(args[0], depth0 + 1));
    };
  }

  /** Advances to the next element; returns false at the end. */
  advance(): boolean {
    const value = this.#after === MISSING ? this.#read() : this.#after;
    this.#after = MISSING;
    if (value === MISSING) return false;
    this.index0++;
    this.#before = this.#current;
    this.#current = value;
    return true;
  }

  get current(): Value {
    return this.#current as Value;
  }

  #read(): Slot {
    const next = this.#iterator.next();
    return next.done ? MISSING : next.value;
  }

  #peek(): Slot {
    if (this.#after === MISSING) this.#after = this.#read();
    return this.#after;
  }

  override size(): number {
    if (this.#length !== undefined) return this.#length;
    this.#length = lengthOf(this.iterable);
    if (this.#length === undefined) {
      const rest = [...{ [Symbol.iterator]: () => this.#iterator }];
      allocate(rest.length);
      this.#iterator = rest[Symbol.iterator]();
      this.#length = rest.length + this.index0 + 1 + (this.#after === MISSING ? 0 : 1);
    }
    return this.#length;
  }

  override repr(): string {
    return `<LoopContext ${this.index0 + 1}/${this.size()}>`;
  }

  override truthy(): boolean {
    return this.size() > 0;
  }

  override *iterate(): Iterator<Value> {
    while (this.advance()) yield new Tuple([this.current, this]);
  }

  override attribute(name: string): Value | undefined {
    switch (name) {
      case "index":
        return BigInt(this.index0 + 1);
      case "index0":
        return BigInt(this.index0);
      case "revindex":
        return BigInt(this.size() - this.index0);
      case "revindex0":
        return BigInt(this.size() - this.index0 - 1);
      case "first":
        return this.index0 === 0;
      case "last":
        return this.#peek() === MISSING;
      case "length":
        return BigInt(this.size());
      case "depth":
        return BigInt(this.depth0 + 1);
      case "depth0":
        return BigInt(this.depth0);
      case "previtem":
        if (this.index0 === 0) return new Undefined(() => "there is no previous item");
        return this.#before === MISSING ? null : this.#before;
      case "nextitem": {
        const next = this.#peek();
        return next === MISSING ? new Undefined(() => "there is no next item") : next;
      }
      case "cycle":
        return new Callable("method", name, (args) => {
          if (args.length === 0) throw typeError("no items for cycling given");
          return args[this.index0 % args.length];
        });
      case "changed":
        return new Callable("method", name, (args) => {
          const value = new Tuple(args);
          if (this.#changed !== undefined && equal(this.#changed, value)) return false;
          this.#changed = value;
          return true;
        });
      default:
        return undefined;
    }
  }
}

/** The signature of a macro. */
export interface MacroSignature {
  readonly name: string | undefined;
  readonly arguments: readonly string[];
  readonly catchKwargs: boolean;
  readonly catchVarargs: boolean;
  readonly caller: boolean;
}

/** A macro, or the body of a call block. */
export class Macro extends PyObject {
  readonly typeName = "Macro";
  override readonly call: (args: readonly Value[], kwargs: Kwargs) => Value;

  constructor(
    readonly signature: MacroSignature,
    run: (args: readonly Slot[]) => string,
  ) {
    super();
    this.call = (args, kwargs) => nested(() => run(bindMacro(signature, args, kwargs)));
  }

  override repr(): string {
    const { name } = this.signature;
    return `<Macro ${name === undefined ? "anonymous" : quote(name)}>`;
  }

  override attribute(name: string): Value | undefined {
    const { signature } = this;
    if (name === "name") return signature.name ?? null;
    if (name === "arguments") return new Tuple(signature.arguments);
    if (name === "catch_kwargs") return signature.catchKwargs;
    if (name === "catch_varargs") return signature.catchVarargs;
    if (name === "caller") return signature.caller;
    return name === "explicit_caller" ? signature.arguments.includes("caller") : undefined;
  }
}

function bindMacro(signature: MacroSignature, args: readonly Value[], kwargs: Kwargs): Slot[] {
  const names = signature.arguments;
  const shown = signature.name === undefined ? "None" : quote(signature.name);
  const rest = new Map(kwargs);
  const bound: Slot[] = args.slice(0, names.length);
  let foundCaller = bound.length === names.length && names.includes("caller");
  for (const name of names.slice(bound.length)) {
    const value = rest.get(name);
    rest.delete(name);
    if (name === "caller") foundCaller = true;
    bound.push(value === undefined ? MISSING : value);
  }
  if (signature.caller && !foundCaller) {
    bound.push(rest.get("caller") ?? new Undefined(() => "No caller defined"));
    rest.delete("caller");
  }
  if (signature.catchKwargs) bound.push(Dict.of(rest));
  else if (rest.size > 0) {
    if (rest.has("caller")) {
      throw typeError(
        `macro ${shown} was invoked with two values for the special caller argument. This is most likely a bug.`,
      );
    }
    throw typeError(`macro ${shown} takes no keyword argument ${quote([...rest.keys()][0])}`);
  }
  if (signature.catchVarargs) bound.push(new Tuple(args.slice(names.length)));
  else if (args.length > names.length) {
    throw typeError(`macro ${shown} takes not more than ${names.length} argument(s)`);
  }
  return bound;
}

/** The result of namespace(): an object whose attributes a template may set. */
export class Namespace extends PyObject {
  readonly typeName = "TemplateNamespace";
  readonly #attributes = new Dict();

  constructor(args: readonly Value[], kwargs: Kwargs) {
    super();
    for (const [name, value] of makeDict(args, kwargs).entries()) this.assign(name, value);
  }

  assign(name: Value, value: Value): void {
    if (typeof name === "string" && name.startsWith("_")) {
      throw new PyError(
        "SecurityError",
        `Chat templates cannot store underscore-prefixed attributes on a namespace, but got ${quote(name)}. Please rename the attribute.`,
      );
    }
    this.#attributes.set(name, value);
  }

  override repr(): string {
    return `<Namespace ${repr(this.#attributes)}>`;
  }

  override attribute(name: string): Value | undefined {
    return this.#attributes.get(name);
  }
}

/** Sets an attribute by `{% set a.b = ... %}`. */
export function assignAttribute(object: Slot, name: string, value: Value): void {
  if (object instanceof Namespace) object.assign(name, value);
  else
    throw typeError(`'${object === MISSING ? "missing" : typeName(object)}' object does not support item assignment`);
}
