import { accepts, Seen, seen } from "./argument-kinds.js";
import { describe } from "./describe.js";
import { dtypeCode } from "./dtype.js";
import { Generator } from "./generator.js";
import { type NativeArgument, type NativeOverload, native } from "./native.js";
import { liveHandle, Tensor } from "./tensor.js";

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

/** One overload of an operator: says whether arguments fit, and calls it. */
export class Overload {
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
