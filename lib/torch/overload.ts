import { accepts, Seen, seen } from "./argument-kinds.js";
import { describe } from "./describe.js";
import { dtypeCode } from "./dtype.js";
import { TorchError } from "./errors.js";
import { Generator } from "./generator.js";
import { type NativeArgument, type NativeOverload, native } from "./native.js";
import { camelCase, snakeCase } from "./options.js";
import { liveHandle, Tensor, wrap } from "./tensor.js";

// Number of entries of native.scratch used by the lists of the current call.
let scratchUsed = 0;

/**
 * Converts an argument for the addon: tensors to handles, dtypes to codes, lists of numbers and tensors to ranges of
 * scratch.
 */
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

/** The handle of a list's element. Lists are read twice, and a proxy may return another value the second time. */
function tensorHandle(item: unknown): number {
  if (item !== null && !(item instanceof Tensor))
    throw new TorchError("TORCH_ARGUMENT", "a list of tensors changed while it was read");
  return liveHandle(item);
}

function listToNative(list: readonly unknown[], argument: NativeArgument): unknown {
  const { scratch } = native;
  const { kind } = argument;
  const begin = scratchUsed;
  if (kind === "Tensor") {
    if (begin + list.length > scratch.length) return list.map(tensorHandle);
    for (let i = 0; i < list.length; i++) scratch[begin + i] = tensorHandle(list[i]);
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

/** Copies a list to a plain array, without the caller's getters and proxies. */
const listCopy = (list: readonly unknown[]): unknown[] => Array.prototype.slice.call(list);

/** A class for several results: an array whose elements also have names, like PyTorch's named tuples. */
function resultsWithNames(names: readonly string[]): new (length: number) => unknown[] {
  if (!names.every((name) => name !== "")) return Array;
  class Results extends Array<unknown> {
    static override get [Symbol.species]() {
      return Array;
    }
  }
  for (const [i, name] of names.entries())
    Object.defineProperty(Results.prototype, camelCase(name), {
      get(this: Results) {
        return this[i];
      },
    });
  return Results;
}

/** One overload of an operator: checks whether arguments match, and calls it. */
export class Overload {
  readonly id: number;
  /** The overload's own name, such as "dim" of "aten::max.dim". */
  readonly name: string;
  /** Arguments in call order: `self` comes first in a method, whatever its position in the schema. */
  readonly arguments: NativeArgument[];
  readonly schema: string;
  /** Whether the result is one new tensor, the most common case. */
  readonly oneTensor: boolean;
  /** Schema positions of the arguments; null if the schema has the same order. */
  readonly order: readonly number[] | null;
  readonly #returns: NativeOverload["returns"];
  readonly #Results: new (
    length: number,
  ) => unknown[];
  readonly #positional: number;
  readonly #index = new Map<string, number>();

  constructor(described: NativeOverload, isMethod = false) {
    this.id = described.id;
    this.name = described.overload;
    const self = isMethod ? described.arguments.findIndex(({ name }) => name === "self") : 0;
    this.order =
      self > 0 ? [self, ...described.arguments.keys()].filter((place, i) => i === 0 || place !== self) : null;
    this.arguments = this.order?.map((place) => described.arguments[place]) ?? described.arguments;
    this.schema = described.schema;
    this.#returns = described.returns;
    this.#Results = resultsWithNames(described.returns.map(({ name }) => name));
    const firstKeyword = this.arguments.findIndex((argument) => argument.keywordOnly);
    this.#positional = firstKeyword < 0 ? this.arguments.length : firstKeyword;
    const [first, ...more] = described.returns;
    this.oneTensor = first?.kind === "Tensor" && more.length === 0 && !first.list && first.writes < 0;
    for (const [i, argument] of this.arguments.entries()) this.#index.set(argument.name, i);
    // Python's functions use another name for it.
    if (this.#index.has("self") && !this.#index.has("input"))
      this.#index.set("input", this.#index.get("self") as number);
  }

  /** The positions of the named arguments, or a message about an argument that does not match. */
  bind(positional: readonly unknown[], named: Record<string, unknown> | null): number[] | string {
    if (positional.length > this.#positional)
      return `takes ${this.#positional} positional arguments, got ${positional.length}`;
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
    // The caller's lists are copied before scratch is written, because a getter in one of them may call torch.
    for (let i = 0; i < args.length; i++)
      converted.push(Array.isArray(args[i]) ? listCopy(args[i] as unknown[]) : args[i]);
    scratchUsed = 0;
    for (let i = 0; i < args.length; i++) converted[i + 1] = toNative(converted[i + 1], this.arguments[i]);
    const result = native.call(...(this.order === null ? converted : this.#inOrder(converted, this.order)));
    if (this.oneTensor) return result === null ? null : wrap(result as number);
    const returns = this.#returns;
    if (returns.length === 0) return undefined;
    if (returns.length === 1) return this.#fromNative(result, 0, args);
    const results = new this.#Results(returns.length);
    for (let i = 0; i < returns.length; i++)
      results[i] = this.#fromNative(Array.isArray(result) ? result[i] : undefined, i, args);
    return results;
  }

  /**
   * The arguments in schema order. Only `self` moves, which is not a list, so the order of lists in scratch is
   * unchanged.
   */
  #inOrder(converted: [number, ...unknown[]], order: readonly number[]): [number, ...unknown[]] {
    const sorted: [number, ...unknown[]] = [this.id];
    for (let i = 1; i < converted.length; i++) sorted[order[i - 1] + 1] = converted[i];
    return sorted;
  }

  /**
   * Converts a result. For a result written in place the addon returns nothing, and the argument itself is the result.
   */
  #fromNative(value: unknown, i: number, args: readonly unknown[]): unknown {
    const { kind, list, writes } = this.#returns[i];
    if (writes >= 0) return args[this.order === null ? writes : this.order.indexOf(writes)];
    if (kind !== "Tensor" || value === null) return value;
    if (!list) return wrap(value as number);
    return (value as (number | null)[]).map((handle) => (handle === null ? null : wrap(handle)));
  }
}
