import { PyError, typeError } from "./errors.js";
import type { ExpressionCompiler, Frame } from "./expressions.js";
import { Ended, type Exec } from "./frames.js";
import { descendants, type Expr } from "./nodes.js";
import { assignAttribute, Namespace, type Scope } from "./runtime.js";
import { iterate, type Value } from "./values.js";

type Setter = (scope: Scope, value: Value) => void;

/** The tag `set` with an expression. */
export function compileAssign(compiler: ExpressionCompiler, target: Expr, value: Expr, frame: Frame): Exec {
  const references = [target, ...descendants(target)].flatMap((node) =>
    node.kind === "NSRef" ? [compiler.target(node.name, frame, node.line)] : [],
  );
  const evaluate = compiler.expression(value, frame);
  const set = compileTarget(compiler, target, frame);
  return (scope) => {
    for (const reference of references) {
      if (!(scope.get(reference) instanceof Namespace)) {
        throw new PyError("TemplateRuntimeError", "cannot assign attribute on non-namespace object");
      }
    }
    set(scope, evaluate(scope));
    return Ended.Through;
  };
}

/** Assigns to a name, an attribute of a namespace or a tuple of them. */
export function compileTarget(compiler: ExpressionCompiler, target: Expr, frame: Frame): Setter {
  if (target.kind === "Name") {
    const { name } = target;
    const variable = compiler.target(name, frame, target.line);
    if (!frame.toplevel) return (scope, value) => scope.set(variable, value);
    return (scope, value) => {
      scope.set(variable, value);
      scope.context.vars.set(name, value);
    };
  }
  if (target.kind === "NSRef") {
    const variable = compiler.target(target.name, frame, target.line);
    return (scope, value) => assignAttribute(scope.get(variable), target.attr, value);
  }
  const setters = target.kind === "Tuple" ? target.items.map((item) => compileTarget(compiler, item, frame)) : [];
  return (scope, value) => {
    const items: Value[] = [];
    for (const item of unpack(value)) {
      if (items.length === setters.length) {
        throw new PyError("ValueError", `too many values to unpack (expected ${setters.length})`);
      }
      items.push(item);
    }
    if (items.length < setters.length) {
      throw new PyError("ValueError", `not enough values to unpack (expected ${setters.length}, got ${items.length})`);
    }
    setters.forEach((set, i) => {
      set(scope, items[i]);
    });
  };
}

/** Unpacks a value to several names, as Python does. */
function unpack(value: Value): Iterable<Value> {
  try {
    const iterator = iterate(value);
    return { [Symbol.iterator]: () => iterator };
  } catch (error) {
    if (!(error instanceof PyError) || error.kind !== "TypeError") throw error;
    throw typeError(
      error.message
        .replace(/^('.*') object is not iterable$/, "cannot unpack non-iterable $1 object")
        .replaceAll("'", ""),
    );
  }
}
