import { PyError, UnsupportedFeature } from "./errors.js";
import type { ExpressionCompiler, Frame } from "./expressions.js";
import type { Stmt } from "./nodes.js";
import { MISSING, type Output, type Scope } from "./runtime.js";
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

/** How a statement ended: run through, or left by break or continue. */
export enum Ended {
  Through,
  Break,
  Continue,
}

/** A statement: writes to the output and says how it ended. */
export type Exec = (scope: Scope, out: Output) => Ended;

/** What statements that hold others are compiled with. */
export interface StatementCompiler extends ExpressionCompiler {
  /** Statements one after the other, up to one that leaves. */
  body(statements: readonly Stmt[], frame: Frame): Exec;
}
