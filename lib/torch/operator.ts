import { describe, isPlainObject } from "./describe.js";
import { dtypeCode, isDType } from "./dtype.js";
import { asTorchError, TorchError } from "./errors.js";
import { Generator } from "./generator.js";
import { type NativeArgument, type NativeOverload, native } from "./native.js";
import { liveHandle, Tensor } from "./tensor.js";

// One operator of the dispatcher: picks the overload that takes the arguments, as PyTorch's argument parser does, and
// calls it. The choice depends on the kinds and names of the arguments only, so it is made once per shape of call.

enum Seen {
  Undefined,
  Null,
  Tensor,
  Integer,
  Float,
  Boolean,
  BigInt,
  String,
  DType,
  Generator,
  EmptyArray,
  TensorArray,
  OptionalTensorArray,
  IntegerArray,
  FloatArray,
  BooleanArray,
  StringArray,
  Other,
}

function seen(value: unknown): Seen {
  switch (typeof value) {
    case "number":
      return Number.isInteger(value) ? Seen.Integer : Seen.Float;
    case "boolean":
      return Seen.Boolean;
    case "string":
      return isDType(value) ? Seen.DType : Seen.String;
    case "bigint":
      return Seen.BigInt;
    case "undefined":
      return Seen.Undefined;
  }
  if (value instanceof Tensor) return Seen.Tensor;
  if (value === null) return Seen.Null;
  if (Array.isArray(value)) return seenArray(value);
  return value instanceof Generator ? Seen.Generator : Seen.Other;
}

/** What an array holds: its first element says what, and the others must agree. */
function seenArray(array: readonly unknown[]): Seen {
  if (array.length === 0) return Seen.EmptyArray;
  let kind = Seen.Undefined;
  for (const item of array) {
    const one = seen(item);
    if (one === Seen.Tensor || one === Seen.Null) {
      if (kind === Seen.Undefined || kind === Seen.TensorArray || kind === Seen.OptionalTensorArray)
        kind = one === Seen.Null ? Seen.OptionalTensorArray : kind || Seen.TensorArray;
      else return Seen.Other;
    } else if (one === Seen.Integer || one === Seen.BigInt) {
      if (kind === Seen.Undefined) kind = Seen.IntegerArray;
      else if (kind !== Seen.IntegerArray && kind !== Seen.FloatArray) return Seen.Other;
    } else if (one === Seen.Float) {
      if (kind === Seen.Undefined || kind === Seen.IntegerArray) kind = Seen.FloatArray;
      else if (kind !== Seen.FloatArray) return Seen.Other;
    } else if (one === Seen.Boolean) {
      if (kind === Seen.Undefined) kind = Seen.BooleanArray;
      else if (kind !== Seen.BooleanArray) return Seen.Other;
    } else if (one === Seen.String || one === Seen.DType) {
      if (kind === Seen.Undefined) kind = Seen.StringArray;
      else if (kind !== Seen.StringArray) return Seen.Other;
    } else return Seen.Other;
  }
  return kind;
}

function accepts(argument: NativeArgument, kind: Seen): boolean {
  if (kind === Seen.Undefined) return argument.hasDefault || argument.optional;
  if (kind === Seen.Null) return argument.optional;
  if (argument.list) {
    if (kind === Seen.EmptyArray) return true;
    if (kind === Seen.Integer || kind === Seen.Float)
      return (
        argument.length !== null && (argument.kind === "float" || (argument.kind === "int" && kind === Seen.Integer))
      );
    switch (argument.kind) {
      case "Tensor":
        return kind === Seen.TensorArray || (argument.elementOptional && kind === Seen.OptionalTensorArray);
      case "int":
        return kind === Seen.IntegerArray;
      case "float":
        return kind === Seen.IntegerArray || kind === Seen.FloatArray;
      case "Scalar":
        return kind === Seen.IntegerArray || kind === Seen.FloatArray || kind === Seen.BooleanArray;
      case "bool":
        return kind === Seen.BooleanArray;
      case "str":
        return kind === Seen.StringArray;
      default:
        return false;
    }
  }
  switch (argument.kind) {
    case "Tensor":
      return kind === Seen.Tensor;
    case "Scalar":
      return kind === Seen.Integer || kind === Seen.Float || kind === Seen.Boolean || kind === Seen.BigInt;
    case "int":
      return kind === Seen.Integer || kind === Seen.BigInt;
    case "float":
      return kind === Seen.Integer || kind === Seen.Float;
    case "bool":
      return kind === Seen.Boolean;
    case "dtype":
      return kind === Seen.DType;
    case "str":
    case "device":
    case "layout":
    case "memory_format":
      return kind === Seen.String || kind === Seen.DType;
    case "Generator":
      return kind === Seen.Generator;
    default:
      return false;
  }
}

const snakeCase = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

// How many numbers of native.scratch the lists of the current call have taken.
let scratchUsed = 0;

/** An argument as the addon takes it: tensors as handles, dtypes as codes, lists of numbers and tensors through scratch. */
function toNative(value: unknown, argument: NativeArgument): unknown {
  if (typeof value !== "object" || value === null) {
    if (argument.kind === "dtype" && typeof value === "string") return dtypeCode(value);
    if (argument.length === null || typeof value !== "number") return value;
    return listToNative(new Array(argument.length).fill(value), argument);
  }
  if (value instanceof Tensor) return value.handle;
  if (Array.isArray(value)) return listToNative(value, argument);
  return value instanceof Generator ? value.handle : value;
}

function listToNative(list: readonly unknown[], argument: NativeArgument): unknown {
  const { scratch } = native;
  const { kind } = argument;
  const begin = scratchUsed;
  if (kind === "Tensor") {
    if (begin + list.length > scratch.length) return (list as (Tensor | null)[]).map(liveHandle);
    for (let i = 0; i < list.length; i++) scratch[begin + i] = liveHandle(list[i] as Tensor | null);
  } else {
    if ((kind !== "int" && kind !== "float") || begin + list.length > scratch.length) return list;
    for (let i = 0; i < list.length; i++) {
      const item = list[i];
      if (typeof item !== "number" || (kind === "int" && !Number.isSafeInteger(item))) return list;
      scratch[begin + i] = item;
    }
  }
  scratchUsed = begin + list.length;
  return list.length;
}

class Overload {
  readonly id: number;
  readonly arguments: NativeArgument[];
  readonly schema: string;
  /** One new tensor: the commonest result, without looking further. */
  readonly oneTensor: boolean;
  readonly #returns: NativeOverload["returns"];
  readonly #positional: number;
  readonly #index = new Map<string, number>();

  constructor(described: NativeOverload) {
    this.id = described.id;
    this.arguments = described.arguments;
    this.schema = described.schema;
    this.#returns = described.returns;
    const firstKeyword = this.arguments.findIndex((argument) => argument.keywordOnly);
    this.#positional = firstKeyword < 0 ? this.arguments.length : firstKeyword;
    const [first, ...more] = described.returns;
    this.oneTensor = first?.kind === "Tensor" && more.length === 0 && !first.list && first.writes < 0;
    for (const [i, argument] of this.arguments.entries()) this.#index.set(argument.name, i);
  }

  /** Where the named arguments go, or what does not fit. */
  bind(positional: readonly unknown[], named: Record<string, unknown> | null): number[] | string {
    if (positional.length > this.#positional)
      return `takes ${this.#positional} positional arguments, not ${positional.length}`;
    const values = [...positional];
    const places: number[] = [];
    for (const [name, value] of Object.entries(named ?? {})) {
      const place = this.#index.get(name) ?? this.#index.get(snakeCase(name));
      if (place === undefined) return `has no argument '${name}'`;
      if (values[place] !== undefined) return `'${name}' is given twice`;
      values[place] = value;
      places.push(place);
    }
    for (const [i, argument] of this.arguments.entries()) {
      const kind = seen(values[i]);
      if (accepts(argument, kind)) continue;
      return kind === Seen.Undefined
        ? `'${argument.name}' is missing`
        : `'${argument.name}' cannot be ${describe(values[i])}`;
    }
    return places;
  }

  call(args: readonly unknown[]): unknown {
    const converted: [number, ...unknown[]] = [this.id];
    scratchUsed = 0;
    for (let i = 0; i < args.length; i++) converted.push(toNative(args[i], this.arguments[i]));
    const result = native.call(...converted);
    if (this.oneTensor) return result === null ? null : new Tensor(result as number);
    const returns = this.#returns;
    if (returns.length === 0) return undefined;
    if (returns.length === 1) return this.#fromNative(result, 0, args);
    return returns.map((_, i) => this.#fromNative(Array.isArray(result) ? result[i] : undefined, i, args));
  }

  /** What was written in place is the argument itself, of which the addon says nothing. */
  #fromNative(value: unknown, i: number, args: readonly unknown[]): unknown {
    const { kind, list, writes } = this.#returns[i];
    if (writes >= 0) return args[writes];
    if (kind !== "Tensor" || value === null) return value;
    if (!list) return new Tensor(value as number);
    return (value as (number | null)[]).map((handle) => (handle === null ? null : new Tensor(handle)));
  }
}

/** The kinds and names of a call's arguments so far: a tree, whose leaves know the overload. */
class CallShape {
  overload: Overload | null = null;
  /** Where the named arguments go, in the order they were given. */
  places: readonly number[] = [];
  readonly #next: (CallShape | undefined)[] = [];
  readonly #named = new Map<string, CallShape>();

  after(kind: Seen): CallShape {
    this.#next[kind] ??= new CallShape();
    return this.#next[kind];
  }

  afterName(name: string): CallShape {
    let shape = this.#named.get(name);
    if (shape === undefined) {
      shape = new CallShape();
      this.#named.set(name, shape);
    }
    return shape;
  }
}

/** One operator by its qualified name, such as "aten::add". Its overloads are looked up at the first call. */
export class Operator {
  readonly name: string;
  /** The name in messages: without the namespace for PyTorch's own. */
  readonly #title: string;
  #overloads: Overload[] | null = null;
  readonly #shapes = new CallShape();
  // The two commonest calls, op(tensor) and op(tensor, tensor), have their overload's id at hand. -1: not yet.
  #unary = -1;
  #binary = -1;

  constructor(name: string) {
    this.name = name;
    this.#title = name.replace(/^aten::/, "");
  }

  get overloads(): readonly Overload[] {
    if (this.#overloads === null) {
      this.#overloads = native.overloads(this.name).map((described) => new Overload(described));
      if (this.#overloads.length === 0) {
        this.#overloads = null;
        throw new TorchError(
          "TORCH_UNKNOWN_OPERATOR",
          `libtorch ${native.build().torch} has no operator ${this.name}`,
          {
            operator: this.#title,
          },
        );
      }
    }
    return this.#overloads;
  }

  callUnary(self: Tensor): unknown {
    if (this.#unary < 0) {
      const result = this.call([self]);
      const { overload } = this.#shapes.after(Seen.Tensor);
      if (overload?.oneTensor) this.#unary = overload.id;
      return result;
    }
    try {
      return new Tensor(native.call(this.#unary, self.handle) as number);
    } catch (error) {
      throw this.#explain(error, [self]);
    }
  }

  callBinary(self: Tensor, other: Tensor): unknown {
    if (this.#binary < 0) {
      const result = this.call([self, other]);
      const { overload } = this.#shapes.after(Seen.Tensor).after(Seen.Tensor);
      if (overload?.oneTensor) this.#binary = overload.id;
      return result;
    }
    try {
      return new Tensor(native.call(this.#binary, self.handle, other.handle) as number);
    } catch (error) {
      throw this.#explain(error, [self, other]);
    }
  }

  /** Calls the overload that takes these arguments; a plain object at the end names arguments. */
  call(args: readonly unknown[]): unknown {
    try {
      const last = args.length > 0 ? args[args.length - 1] : undefined;
      const named = isPlainObject(last) ? last : null;
      const count = named === null ? args.length : args.length - 1;
      let shape = this.#shapes;
      for (let i = 0; i < count; i++) shape = shape.after(seen(args[i]));
      if (named === null) return (shape.overload ?? this.#choose(shape, args, null, args)).call(args);
      const bound = args.slice(0, count);
      const values: unknown[] = [];
      for (const name in named) {
        const value = named[name];
        shape = shape.afterName(name).after(seen(value));
        values.push(value);
      }
      const overload = shape.overload ?? this.#choose(shape, bound, named, args);
      const { places } = shape;
      for (let i = 0; i < values.length; i++) {
        while (bound.length < places[i]) bound.push(undefined);
        bound[places[i]] = values[i];
      }
      return overload.call(bound);
    } catch (error) {
      throw this.#explain(error, args);
    }
  }

  #choose(
    shape: CallShape,
    positional: readonly unknown[],
    named: Record<string, unknown> | null,
    args: readonly unknown[],
  ): Overload {
    const reasons: string[] = [];
    for (const overload of this.overloads) {
      const places = overload.bind(positional, named);
      if (typeof places !== "string") {
        shape.overload = overload;
        shape.places = places;
        return overload;
      }
      reasons.push(`    ${overload.schema}\n      ${places}`);
    }
    throw new TorchError(
      "TORCH_ARGUMENT",
      `${this.#title}: no overload takes (${args.map(describe).join(", ")}):\n${reasons.join("\n")}`,
      { operator: this.#title },
    );
  }

  #explain(error: unknown, args: readonly unknown[]): unknown {
    return asTorchError(error, this.#title, () => args.map(describe).join(", "));
  }
}
