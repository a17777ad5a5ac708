import { Seen, seen } from "./argument-kinds.js";
import { describe, isPlainObject } from "./describe.js";
import { asTorchError, TorchError } from "./errors.js";
import { type NativeArgument, native } from "./native.js";
import { Overload } from "./overload.js";
import { parserOrder } from "./overload-order.js";
import { Tensor, wrap } from "./tensor.js";

// One operator of the dispatcher. It selects the overload for the arguments, as PyTorch's argument parser does, and
// calls it. The selection depends on the kinds and names of the arguments only, so it is cached per call signature.

/** A node of the tree of call signatures: the kinds and names of the arguments so far. Leaves hold the overload. */
class CallShape {
  overload: Overload | null = null;
  /** Positions of the named arguments, in the order of the call. */
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

const isSelf = ({ name, kind, list }: NativeArgument) => name === "self" && kind === "Tensor" && !list;

/** One operator by its qualified name, such as "aten::add". Its overloads are looked up at the first call. */
export class Operator {
  readonly name: string;
  /** The name in messages, without the namespace for PyTorch's own operators. */
  readonly #title: string;
  #overloads: Overload[] | null = null;
  readonly #shapes = new CallShape();
  // Cached overload ids of the two most common calls, op(tensor) and op(tensor, tensor). -1: not cached yet.
  #unary = -1;
  #binary = -1;

  /** Whether it is called as a method, with `self` first, whatever its position in the schema. */
  readonly #isMethod: boolean;

  /** The only overload to use, if Python can call no other. */
  readonly #only: string | undefined;

  constructor(name: string, { isMethod = false, only }: { isMethod?: boolean; only?: string } = {}) {
    this.name = name;
    this.#only = only;
    this.#isMethod = isMethod;
    this.#title = name.replace(/^aten::/, "");
  }

  get overloads(): readonly Overload[] {
    if (this.#overloads === null) {
      const isMethod = this.#isMethod;
      this.#overloads = parserOrder(native.overloads(this.name))
        .filter((described) => !isMethod || described.arguments.some(isSelf))
        .filter((described) => this.#only === undefined || described.overload === this.#only)
        .map((described) => new Overload(described, isMethod));
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
      return wrap(native.call(this.#unary, self.handle) as number);
    } catch (error) {
      throw this.#explain(error, [self]);
    }
  }

  callBinary(self: Tensor, other: Tensor): unknown {
    if (this.#binary < 0) {
      const result = this.call([self, other]);
      const { overload } = this.#shapes.after(Seen.Tensor).after(Seen.Tensor);
      if (overload?.oneTensor && overload.order === null) this.#binary = overload.id;
      return result;
    }
    try {
      return wrap(native.call(this.#binary, self.handle, other.handle) as number);
    } catch (error) {
      throw this.#explain(error, [self, other]);
    }
  }

  /** The name of the overload for these arguments, without calling it. */
  overloadFor(args: readonly unknown[]): string {
    const last = args.at(-1);
    const named = isPlainObject(last) ? last : null;
    return this.#choose(new CallShape(), named === null ? args : args.slice(0, -1), named, args).name;
  }

  /** Calls the overload for these arguments; a plain object at the end holds named arguments. */
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
      for (let i = 0; i < places.length; i++) {
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
      `${this.#title}: no overload accepts (${args.map(describe).join(", ")}):\n${reasons.join("\n")}`,
      { operator: this.#title },
    );
  }

  #explain(error: unknown, args: readonly unknown[]): unknown {
    return asTorchError(error, this.#title, () => args.map(describe).join(", "));
  }
}

/**
 * A function that calls an operator of the dispatcher, with the caller's type.
 * @param only the only overload to call, if PyTorch's own function can call no other
 */
export function operatorFunction<F extends (...args: never[]) => unknown>(name: string, only?: string): F {
  const operator = new Operator(name, { only });
  const call = (...args: unknown[]) => {
    if (args.length === 2 && args[0] instanceof Tensor && args[1] instanceof Tensor)
      return operator.callBinary(args[0], args[1]);
    if (args.length === 1 && args[0] instanceof Tensor) return operator.callUnary(args[0]);
    return operator.call(args);
  };
  return call as unknown as F;
}
