import { compileTarget } from "./assignment.js";
import { TemplateSyntaxError } from "./errors.js";
import { type Frame, innerFrame } from "./expressions.js";
import { Ended, type Exec, enterFrame, leaveFrame, type StatementCompiler } from "./frames.js";
import { step } from "./meter.js";
import { descendants, type ForNode } from "./nodes.js";
import { LoopContext, MISSING, Output, type Scope } from "./runtime.js";
import { findUndeclared } from "./symbols.js";
import { elements, Generator, iterate, truthy, type Value } from "./values.js";

/** Compiles a loop; its target, its filter and its else part have separate scopes. */
export function compileFor(compiler: StatementCompiler, node: ForNode, frame: Frame): Exec {
  const loopFrame = innerFrame(frame);
  const elseFrame = innerFrame(frame);
  const below = [...descendants(node)];
  const isExtended =
    node.recursive ||
    findUndeclared(node.body, ["loop"]).has("loop") ||
    below.some((one) => one.kind === "Block" && one.scoped);
  const loopTarget = isExtended ? loopFrame.symbols.declareParameter("loop") : undefined;
  loopFrame.symbols.analyzeFor(node, "body");
  if (node.otherwise.length > 0) elseFrame.symbols.analyzeFor(node, "else");
  const bad = below.find((one) => one.kind === "Name" && one.ctx === "store" && one.name === "loop");
  if (bad) throw new TemplateSyntaxError("Can't assign to special loop variable in for-loop target", bad.line);

  const filter = loopFilter(compiler, node, frame, loopFrame);
  const setTarget = compileTarget(compiler, node.target, loopFrame);
  const enter = enterFrame(loopFrame.symbols);
  const leave = leaveFrame(loopFrame.symbols);
  const body = compiler.body(node.body, loopFrame);
  const enterElse = enterFrame(elseFrame.symbols);
  const leaveElse = leaveFrame(elseFrame.symbols);
  const otherwise = node.otherwise.length > 0 ? compiler.body(node.otherwise, elseFrame) : undefined;
  const keepsVariables = node.recursive && !otherwise;

  const run = (
    scope: Scope,
    out: Output,
    iterable: Value,
    recurse?: (one: Value, depth0: number) => string,
    depth0 = 0,
  ) => {
    const items = filter ? filter(scope, iterable) : iterable;
    if (loopTarget) scope.set(loopTarget, MISSING);
    const loop = loopTarget ? new LoopContext(items, recurse, depth0) : undefined;
    const iterator = loop ? undefined : iterate(items);
    let isUntouched = true;
    for (;;) {
      step();
      if (loop && loopTarget) {
        if (!loop.advance()) break;
        setTarget(scope, loop.current);
        scope.set(loopTarget, loop);
      } else {
        const next = iterator?.next();
        if (!next || next.done) break;
        setTarget(scope, next.value);
      }
      enter(scope);
      const ended = body(scope, out);
      if (ended === Ended.Break) break;
      // As in jinja2's generated code, the else part is skipped only if an iteration ran to its end.
      if (ended === Ended.Through) isUntouched = false;
    }
    if (!keepsVariables) leave(scope);
    if (!otherwise || !isUntouched) return Ended.Through;
    enterElse(scope);
    const ended = otherwise(scope, out);
    if (ended === Ended.Through) leaveElse(scope);
    return ended;
  };

  const iter = compiler.expression(node.iter, frame);
  if (!node.recursive) return (scope, out) => run(scope, out, iter(scope));
  return (scope, out) => {
    const render = (iterable: Value, depth0: number): string => {
      const buffer = new Output();
      run(scope.inner(), buffer, iterable, render, depth0);
      return buffer.text();
    };
    out.write(render(iter(scope), 0));
    return Ended.Through;
  };
}

/** The elements for which a loop's condition holds, evaluated lazily. */
function loopFilter(
  compiler: StatementCompiler,
  node: ForNode,
  frame: Frame,
  loopFrame: Frame,
): ((scope: Scope, iterable: Value) => Value) | undefined {
  if (!node.test) return undefined;
  const testFrame = innerFrame(frame);
  testFrame.symbols.analyzeFor(node, "test");
  const enter = enterFrame(testFrame.symbols);
  const setTarget = compileTarget(compiler, node.target, loopFrame);
  const test = compiler.expression(node.test, testFrame);
  return (outer, iterable) => {
    const filtered = function* (): IterableIterator<Value> {
      const scope = outer.inner();
      enter(scope);
      for (const item of elements(iterable)) {
        setTarget(scope, item);
        if (truthy(test(scope))) yield item;
      }
    };
    return new Generator(filtered());
  };
}
