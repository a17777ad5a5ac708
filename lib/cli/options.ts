import { InvalidArgumentError, Option } from "commander";

/** `--device`: where the model runs. */
export function deviceOption(fallback?: string): Option {
  const option = new Option("--device <device>", '"cpu", "cuda" or "cuda:1"').argParser((text) => {
    if (/^(cpu|cuda(:\d+)?)$/.test(text)) return text;
    throw new InvalidArgumentError('expected "cpu", "cuda" or "cuda:NUMBER"');
  });
  return fallback === undefined ? option : option.default(fallback);
}

/** Reads an option's value as an integer. */
export function integer(minimum: number) {
  return (text: string): number => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isSafeInteger(value) || value < minimum) {
      throw new InvalidArgumentError(`expected an integer from ${minimum}`);
    }
    return value;
  };
}

/** Reads `name=number,name=number`. What names there are is for the library to say. */
export function sizes(text: string): Record<string, number> {
  const pairs = text.split(",").map((part) => /^([a-z]+)=(\d+)$/i.exec(part.trim()));
  if (pairs.some((pair) => pair === null)) throw new InvalidArgumentError("expected NAME=NUMBER,NAME=NUMBER");
  return Object.fromEntries(pairs.flatMap((pair) => (pair ? [[pair[1], Number(pair[2])]] : [])));
}

/** Reads an option's value as a number. */
export function real(minimum: number, maximum: number) {
  return (text: string): number => {
    const value = Number(text);
    if (text.trim() === "" || !(value >= minimum && value <= maximum)) {
      throw new InvalidArgumentError(`expected a number from ${minimum} to ${maximum}`);
    }
    return value;
  };
}
