import { PyError, UnsupportedFeature } from "./errors.js";
import type { ExpressionCompiler, Frame } from "./expressions.js";
import type { Stmt } from "./nodes.js";
import { MISSING, type Output, type Scope } from "./runtime.js";
import type { Symbols } from "./symbols.js";

/** Runs `work` and sets the line of an error that has no line yet. */
export function located<T>(line: number, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof PyError || error instanceof UnsupportedFeature) error.line ??= line;
    throw error;
  }
}

/** Initializes a frame's variables. */
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

/** Removes a frame's variables. */
export function leaveFrame(symbols: Symbols): (scope: Scope) => void {
  const targets = [...symbols.loads.keys()];
  return (scope) => {
    for (const target of targets) scope.set(target, MISSING);
  };
}

/** How a statement ended: normally, or by break or continue. */
export enum Ended {
  Through,
  Break,
  Continue,
}

/** A compiled statement: writes to the output and returns how it ended. */
export type Exec = (scope: Scope, out: Output) => Ended;

/** The compiler of statements that contain others. */
export interface StatementCompiler extends ExpressionCompiler {
  /** Compiles a sequence of statements, which ends early after break or continue. */
  body(statements: readonly Stmt[], frame: Frame): Exec;
}
