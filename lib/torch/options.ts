import { describe } from "./describe.js";
import { TorchError } from "./errors.js";

/**
 * An options object with our spelling of the names; PyTorch's (`ignore_index`) is taken, too, as by the operators. A name
 * that a function does not know is refused: a misspelt option would be ignored in silence.
 * @throws TorchError TORCH_ARGUMENT with the names that there are
 */
export function checkOptions<T extends object>(what: string, options: T, allowed: readonly string[]): T {
  if (typeof options !== "object" || options === null || Array.isArray(options))
    throw new TorchError("TORCH_ARGUMENT", `${what}: the options must be an object, not ${describe(options)}`);
  const given = options as Record<string, unknown>;
  let renamed: Record<string, unknown> | undefined;
  for (const name in options) {
    if (allowed.includes(name)) continue;
    const ours = camelCase(name);
    if (!allowed.includes(ours))
      throw new TorchError("TORCH_ARGUMENT", `${what}: unknown option '${name}': one of ${allowed.join(", ")}`);
    if (given[ours] !== undefined) throw new TorchError("TORCH_ARGUMENT", `${what}: '${ours}' is given twice`);
    renamed ??= { ...given };
    renamed[ours] = given[name];
    delete renamed[name];
  }
  return (renamed as T | undefined) ?? options;
}

/** Refuses arguments beyond those that a function has: JavaScript would drop them in silence. */
export function checkArguments(what: string, given: number, allowed: number): void {
  if (given > allowed)
    throw new TorchError("TORCH_ARGUMENT", `${what}: takes at most ${allowed} arguments, not ${given}`);
}

// PyTorch's names in Python, and ours.

export const camelCase = (name: string) =>
  name.replace(/(?<=[a-z0-9])_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());

export const snakeCase = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
