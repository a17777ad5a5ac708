import { isDType, toDType } from "./dtype.js";
import { asTorchError, TorchError } from "./errors.js";
import { Generator } from "./generator.js";
import { type Handle, type NativeArgument, type NativeOverload, native } from "./native.js";
import { Tensor } from "./tensor.js";

// One operator of the dispatcher: picks the overload that takes the arguments, as PyTorch's argument parser does, and
// calls it. The choice is remembered by the kinds of the arguments, so it is made once per shape of call.

const enum Seen {
  Undefined,
  Null,
  Tensor,
  Integer,
  Float,
  Boolean,
  String,
  BigInt,
  Generator,
  EmptyArray,
  TensorArray,
  IntegerArray,
  FloatArray,
  BooleanArray,
  OptionalTensorArray,
  Other,
}

function seen(value: unknown): Seen {
  switch (typeof value) {
    case "number":
      return Number.isInteger(value) ? Seen.Integer : Seen.Float;
    case "boolean":
      return Seen.Boolean;
    case "string":
      return Seen.String;
    case "bigint":
      return Seen.BigInt;
    case "undefined":
      return Seen.Undefined;
  }
  if (value instanceof Tensor) return Seen.Tensor;
  if (value === null) return Seen.Null;
  if (value instanceof Generator) return Seen.Generator;
  if (!Array.isArray(value)) return Seen.Other;
  if (value.length === 0) return Seen.EmptyArray;
  if (value.every((item) => item instanceof Tensor)) return Seen.TensorArray;
  if (value.every((item) => item instanceof Tensor || item === null)) return Seen.OptionalTensorArray;
  if (value.every((item) => typeof item === "number" || typeof item === "bigint"))
    return value.every((item) => typeof item === "bigint" || Number.isInteger(item))
      ? Seen.IntegerArray
      : Seen.FloatArray;
  return value.every((item) => typeof item === "boolean") ? Seen.BooleanArray : Seen.Other;
}

function accepts(argument: NativeArgument, kind: Seen, value: unknown): boolean {
  if (kind === Seen.Undefined) return argument.hasDefault || argument.optional;
  if (kind === Seen.Null) return argument.optional;
  if (argument.list) {
    if (kind === Seen.EmptyArray) return true;
    switch (argument.kind) {
      case "Tensor":
        return kind === Seen.TensorArray || (argument.elementOptional && kind === Seen.OptionalTensorArray);
      case "int":
        return kind === Seen.IntegerArray || kind === Seen.Integer;
      case "float":
        return kind === Seen.IntegerArray || kind === Seen.FloatArray || kind === Seen.Integer || kind === Seen.Float;
      case "Scalar":
        return kind === Seen.IntegerArray || kind === Seen.FloatArray || kind === Seen.BooleanArray;
      case "bool":
        return kind === Seen.BooleanArray;
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
      return isDType(value);
    case "str":
    case "device":
    case "layout":
    case "memory_format":
      return kind === Seen.String;
    case "Generator":
      return kind === Seen.Generator;
    default:
      return false;
  }
}

function isNamed(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

const snakeCase = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

class Overload {
  readonly id: number;
  readonly arguments: NativeArgument[];
  readonly returns: NativeOverload["returns"];
  readonly schema: string;
  readonly positional: number;
  /** Results are the written arguments: nothing new is made. */
  readonly inPlace: boolean;
  /** One new tensor: the commonest result, without looking further. */
  readonly oneTensor: boolean;
  readonly #index = new Map<string, number>();

  constructor(described: NativeOverload) {
    this.id = described.id;
    this.arguments = described.arguments;
    this.returns = described.returns;
    this.schema = described.schema;
    const firstKeyword = this.arguments.findIndex((argument) => argument.keywordOnly);
    this.positional = firstKeyword < 0 ? this.arguments.length : firstKeyword;
    this.inPlace = this.returns.length > 0 && this.returns.every((result) => result.writes >= 0);
    this.oneTensor =
      this.returns.length === 1 && this.returns[0].kind === "Tensor" && !this.returns[0].list && !this.inPlace;
    for (const [i, argument] of this.arguments.entries()) this.#index.set(argument.name, i);
  }

  /** Arguments in the schema's order, or null when they do not fit. */
  bind(args: readonly unknown[], named: Record<string, unknown> | null): unknown[] | null {
    if (args.length > this.positional) return null;
    const bound = args.slice();
    if (named !== null) {
      for (const [name, value] of Object.entries(named)) {
        const index = this.#index.get(name) ?? this.#index.get(snakeCase(name));
        if (index === undefined || (index < args.length && value !== undefined)) return null;
        if (index >= args.length) bound[index] = value;
      }
    }
    for (let i = 0; i < this.arguments.length; i++) {
      if (!accepts(this.arguments[i], seen(bound[i]), bound[i])) return null;
    }
    return bound;
  }

  call(bound: unknown[]): unknown {
    const converted: unknown[] = [this.id];
    for (let i = 0; i < bound.length; i++) converted.push(toNative(bound[i], this.arguments[i]));
    const result = native.call(...(converted as [number, ...unknown[]]));
    if (this.oneTensor) return result === null ? null : new Tensor(result as Handle);
    if (this.returns.length === 0) return undefined;
    if (this.inPlace) {
      const written = this.returns.map((returned) => bound[returned.writes]);
      return written.length === 1 ? written[0] : written;
    }
    if (this.returns.length === 1) return fromNative(result, this.returns[0]);
    return (result as unknown[]).map((value, i) =>
      this.returns[i].writes >= 0 ? bound[this.returns[i].writes] : fromNative(value, this.returns[i]),
    );
  }
}

function toNative(value: unknown, argument: NativeArgument): unknown {
  if (value instanceof Tensor || value instanceof Generator) return value.handle;
  if (Array.isArray(value) && argument.kind === "Tensor")
    return value.map((item) => (item instanceof Tensor ? item.handle : item));
  if (argument.kind === "dtype" && isDType(value)) return toDType(value);
  return value;
}

function fromNative(value: unknown, returned: NativeOverload["returns"][number]): unknown {
  if (returned.kind !== "Tensor" || value === null) return value;
  if (returned.list) return (value as (Handle | null)[]).map((handle) => (handle === null ? null : new Tensor(handle)));
  return new Tensor(value as Handle);
}

function describe(value: unknown): string {
  if (value instanceof Tensor) {
    return value.disposed ? "Tensor(disposed)" : `Tensor([${value.shape}], ${value.dtype}, ${value.device})`;
  }
  if (Array.isArray(value)) {
    const shown = value.slice(0, 8).map(describe).join(", ");
    return `[${shown}${value.length > 8 ? `, … ${value.length} in all` : ""}]`;
  }
  if (value instanceof Generator) return "Generator";
  if (typeof value === "object" && value !== null) {
    if (!isNamed(value)) return (value as object).constructor?.name ?? "object";
    return `{ ${Object.entries(value)
      .map(([key, item]) => `${key}: ${describe(item)}`)
      .join(", ")} }`;
  }
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

/** One operator by its qualified name, such as "aten::add". Its overloads are looked up at the first call. */
export class Operator {
  readonly name: string;
  /** The name in messages: without the namespace for PyTorch's own. */
  readonly #title: string;
  #overloads: Overload[] | null = null;
  readonly #chosen = new Map<number, Overload>();
  // The two commonest calls, op(tensor) and op(tensor, tensor), have their overload at hand.
  #unary: Overload | null = null;
  #binary: Overload | null = null;

  constructor(name: string) {
    this.name = name;
    this.#title = name.replace(/^aten::/, "");
  }

  get overloads(): readonly Overload[] {
    if (this.#overloads === null) {
      this.#overloads = native.overloads(this.name).map((described) => new Overload(described));
      if (this.#overloads.length === 0) {
        this.#overloads = null;
        throw new TorchError("TORCH_UNKNOWN_OPERATOR", `libtorch ${native.build().torch} has no operator ${this.name}`, {
          operator: this.#title,
        });
      }
    }
    return this.#overloads;
  }

  callUnary(self: Tensor): unknown {
    const overload = this.#unary;
    if (overload === null) {
      const result = this.call([self]);
      const chosen = this.#chosen.get(Seen.Tensor + 16);
      if (chosen?.oneTensor) this.#unary = chosen;
      return result;
    }
    try {
      return new Tensor(native.call(overload.id, self.handle) as Handle);
    } catch (error) {
      throw this.#explain(error, [self]);
    }
  }

  callBinary(self: Tensor, other: Tensor): unknown {
    const overload = this.#binary;
    if (overload === null) {
      const result = this.call([self, other]);
      const chosen = this.#chosen.get((Seen.Tensor + 16) * 16 + Seen.Tensor);
      if (chosen?.oneTensor) this.#binary = chosen;
      return result;
    }
    try {
      return new Tensor(native.call(overload.id, self.handle, other.handle) as Handle);
    } catch (error) {
      throw this.#explain(error, [self, other]);
    }
  }

  /** Calls the overload that takes these arguments; a plain object at the end names arguments. */
  call(args: readonly unknown[]): unknown {
    const last = args.length > 0 ? args[args.length - 1] : undefined;
    const named = isNamed(last) ? last : null;
    const positional = named === null ? args : args.slice(0, -1);
    try {
      if (named === null) {
        let key = 1;
        let cacheable = args.length <= 12;
        for (const value of args) {
          const kind = seen(value);
          if (kind === Seen.Other || kind === Seen.String) cacheable = false;
          key = key * 16 + kind;
        }
        const known = cacheable ? this.#chosen.get(key) : undefined;
        if (known !== undefined) return known.call(args as unknown[]);
        const { overload, bound } = this.#choose(positional, null, args);
        if (cacheable) this.#chosen.set(key, overload);
        return overload.call(bound);
      }
      const { overload, bound } = this.#choose(positional, named, args);
      return overload.call(bound);
    } catch (error) {
      throw this.#explain(error, args);
    }
  }

  #choose(positional: readonly unknown[], named: Record<string, unknown> | null, args: readonly unknown[]) {
    for (const overload of this.overloads) {
      const bound = overload.bind(positional, named);
      if (bound !== null) return { overload, bound };
    }
    const schemas = this.overloads.map((overload) => `    ${overload.schema}`).join("\n");
    throw new TorchError(
      "TORCH_ARGUMENT",
      `${this.#title}: no overload takes (${args.map(describe).join(", ")}). It has:\n${schemas}`,
      { operator: this.#title },
    );
  }

  #explain(error: unknown, args: readonly unknown[]): unknown {
    return asTorchError(error, this.#title, () => args.map(describe).join(", "));
  }
}
