import type { ExpressionCompiler, Frame } from "./expressions.js";
import type { Stmt } from "./nodes.js";
import type { Output, Scope } from "./runtime.js";

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
