import { typeError } from "./errors.js";
import { asInt, Callable, type Kwargs, textOf, typeName, type Value } from "./values.js";

/** Arguments by position; undefined if not given. */
export type Bound = (Value | undefined)[];

/**
 * Parses a signature: `"old new count?"` has two required arguments and an optional one, by position or name; with a
 * leading `"/ "` all are positional-only.
 *
 * @throws PyError TypeError from the returned function if the arguments do not match
 */
export function signature(name: string, parameters: string): (args: readonly Value[], kwargs: Kwargs) => Bound {
  const byPosition = parameters.startsWith("/");
  const list = parameters.replace("/", "").split(" ").filter(Boolean);
  const names = list.map((one) => one.replace("?", ""));
  const needed = list.filter((one) => !one.endsWith("?")).length;
  return (args, kwargs) => {
    if (byPosition && kwargs.size > 0) throw typeError(`${name}() takes no keyword arguments`);
    if (args.length > names.length) {
      const most = `${names.length} positional argument${names.length === 1 ? "" : "s"}`;
      throw typeError(`${name}() takes at most ${most} (${args.length} given)`);
    }
    const bound: Bound = names.map((_, i) => args[i]);
    for (const [key, value] of kwargs) {
      const at = names.indexOf(key);
      if (at < 0) throw typeError(`${name}() got an unexpected keyword argument '${key}'`);
      if (at < args.length) throw typeError(`${name}() got multiple values for argument '${key}'`);
      bound[at] = value;
    }
    const missing = bound.findIndex((value, i) => value === undefined && i < needed);
    if (missing >= 0) throw typeError(`${name}() missing required argument '${names[missing]}' (pos ${missing + 1})`);
    return bound;
  };
}

/** A method of a built-in type, bound to its object. */
export function method(name: string, parameters: string, body: (...args: Bound) => Value): Callable {
  const bind = signature(name, parameters);
  return new Callable("builtin_function_or_method", name, (args, kwargs) => body(...bind(args, kwargs)));
}

/** An int argument, or a default. */
export function intOf(value: Value | undefined, otherwise: bigint): bigint {
  if (value === undefined) return otherwise;
  const number = asInt(value);
  if (number === undefined) throw typeError(`'${typeName(value)}' object cannot be interpreted as an integer`);
  return number;
}

/** A str argument. */
export function textArgument(name: string, value: Value | undefined): string {
  const text = value === undefined ? undefined : textOf(value);
  if (text === undefined) throw typeError(`${name} must be str, not ${typeName(value ?? null)}`);
  return text;
}

/** A required int argument. */
export function asIntArgument(value: Value): bigint {
  return intOf(value, 0n);
}
