import { InvalidArgumentError, Option } from "commander";

/** `--device`: where the model runs. */
export function deviceOption(fallback?: string): Option {
  const option = new Option("--device <device>", '"cpu", "cuda" or "cuda:1"').argParser((text) => {
    if (/^(cpu|cuda(:\d+)?)$/.test(text)) return text;
    throw new InvalidArgumentError('expected "cpu", "cuda" or "cuda:NUMBER"');
  });
  return fallback === undefined ? option : option.default(fallback);
}

/** A flag that had another name in 0.1.0: it is refused with that of today. */
export function renamedFlag(flags: string, today: string): Option {
  const refuse = () => {
    throw new InvalidArgumentError(`It is called ${today} now.`);
  };
  return new Option(flags).preset("").argParser(refuse).hideHelp();
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

/** Reads a TCP port. @param minimum 0 where that means: any free one */
export function port(minimum: 0 | 1) {
  return (text: string): number => {
    const value = Number(text);
    if (text.trim() !== "" && Number.isInteger(value) && value >= minimum && value <= 65_535) return value;
    throw new InvalidArgumentError(`expected a port from ${minimum} to 65535`);
  };
}

/** Reads a size in bytes: 4GiB is 4 x 1024^3, 4GB and 4G are 4 x 1000^3. */
export function size(text: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?\s*$/i.exec(text);
  const [, number, unit = "", binary] = match ?? [];
  const power = " kmgt".indexOf(unit.toLowerCase() || " ");
  const value = Math.floor(Number(number) * (binary ? 1024 : 1000) ** power);
  if (!match || !(value >= 1)) throw new InvalidArgumentError("expected a size such as 5GB, 512MiB or 5000000");
  return value;
}

/** Reads `name=number,name=number`. The library validates the names. */
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
