import { describe } from "./describe.js";
import { TorchError } from "./errors.js";

/**
 * Checks an options object and converts PyTorch's spelling of names (`ignore_index`) to camelCase. Unknown names are
 * rejected, because a misspelled option would silently be ignored.
 * @throws TorchError TORCH_ARGUMENT with the allowed names
 */
export function checkOptions<T extends object>(what: string, options: T, allowed: readonly string[]): T {
  if (typeof options !== "object" || options === null || Array.isArray(options))
    throw new TorchError("TORCH_ARGUMENT", `${what}: the options must be an object, got ${describe(options)}`);
  const given = options as Record<string, unknown>;
  let renamed: Record<string, unknown> | undefined;
  for (const name in options) {
    if (allowed.includes(name)) continue;
    const ours = camelCase(name);
    if (!allowed.includes(ours))
      throw new TorchError(
        "TORCH_ARGUMENT",
        `${what}: unknown option '${name}', expected one of ${allowed.join(", ")}`,
      );
    if (given[ours] !== undefined) throw new TorchError("TORCH_ARGUMENT", `${what}: '${ours}' is given twice`);
    renamed ??= { ...given };
    renamed[ours] = given[name];
    delete renamed[name];
  }
  return (renamed as T | undefined) ?? options;
}

/** Rejects surplus arguments, which JavaScript would silently drop. */
export function checkArguments(what: string, given: number, allowed: number): void {
  if (given > allowed)
    throw new TorchError("TORCH_ARGUMENT", `${what}: takes at most ${allowed} arguments, got ${given}`);
}

// PyTorch's Python names and the camelCase names.

export const camelCase = (name: string) =>
  name.replace(/(?<=[a-z0-9])_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());

export const snakeCase = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
