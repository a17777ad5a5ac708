import { PyError, UnsupportedFeature } from "./errors.js";
import { MISSING, type Scope } from "./runtime.js";
import type { Symbols } from "./symbols.js";

/** Runs `work`; an error in it is one of this line unless it knows a line within. */
export function located<T>(line: number, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof PyError || error instanceof UnsupportedFeature) error.line ??= line;
    throw error;
  }
}

/** Gives a frame's variables their first values. */
export function enterFrame(symbols: Symbols): (scope: Scope) => void {
  const loads = [...symbols.loads].filter(([, load]) => load.kind !== "param");
  const unset = loads.filter(([, load]) => load.kind === "undefined");
  return (scope) => {
    for (const [target, load] of loads) {
      if (load.kind === "resolve") scope.set(target, scope.context.resolve(load.name));
      else if (load.kind === "alias") scope.set(target, scope.get(load.target));
    }
    for (const [target] of unset) scope.set(target, MISSING);
  };
}

/** Takes a frame's variables away. */
export function leaveFrame(symbols: Symbols): (scope: Scope) => void {
  const targets = [...symbols.loads.keys()];
  return (scope) => {
    for (const target of targets) scope.set(target, MISSING);
  };
}
