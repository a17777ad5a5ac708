import { TemplateSyntaxError } from "./errors.js";
import { type Frame, innerFrame } from "./expressions.js";
import { Ended, type Exec, enterFrame, type StatementCompiler } from "./frames.js";
import type { CallBlockNode, MacroNode } from "./nodes.js";
import { Macro, type MacroSignature, MISSING, Output, type Scope, type Slot } from "./runtime.js";
import { findUndeclared } from "./symbols.js";
import { quote, str } from "./text.js";
import { Undefined } from "./values.js";

/** The tag `macro`. */
export function compileMacro(compiler: StatementCompiler, node: MacroNode, frame: Frame): Exec {
  const make = macroMaker(compiler, node, node.name, frame);
  const variable = compiler.target(node.name, frame, node.line);
  return (scope) => {
    const macro = make(scope);
    if (frame.toplevel) scope.context.vars.set(node.name, macro);
    scope.set(variable, macro);
    return Ended.Through;
  };
}

function macroMaker(
  compiler: StatementCompiler,
  node: MacroNode | CallBlockNode,
  name: string | undefined,
  outer: Frame,
): (scope: Scope) => Macro {
  const frame = innerFrame(outer);
  const { symbols } = frame;
  const nodes = [...node.args, ...node.defaults, ...node.body];
  symbols.analyze(nodes);
  const names = node.args.map((arg) => arg.name);
  const targets = names.map((one) => compiler.target(one, frame, node.line));
  const undeclared = findUndeclared(node.body, ["caller", "kwargs", "varargs"]);
  if (undeclared.has("caller")) {
    const explicit = names.indexOf("caller");
    if (explicit >= 0 && names.length - explicit > node.defaults.length) {
      throw new TemplateSyntaxError(
        'When defining macros or call blocks the special "caller" argument must be omitted or be given a default.',
        node.line,
      );
    }
    if (explicit < 0) targets.push(symbols.declareParameter("caller"));
  }
  const catches = (special: string) => undeclared.has(special) && !names.includes(special);
  if (catches("kwargs")) targets.push(symbols.declareParameter("kwargs"));
  if (catches("varargs")) targets.push(symbols.declareParameter("varargs"));
  symbols.analyze(nodes);
  const signature: MacroSignature = {
    name,
    arguments: names,
    catchKwargs: catches("kwargs"),
    catchVarargs: catches("varargs"),
    caller: undeclared.has("caller"),
  };
  const enter = enterFrame(symbols);
  const firstDefault = names.length - node.defaults.length;
  const defaults = names.map((_, i) =>
    i < firstDefault ? undefined : compiler.expression(node.defaults[i - firstDefault], frame),
  );
  const body = compiler.body(node.body, frame);
  return (outerScope) =>
    new Macro(signature, (args: readonly Slot[]) => {
      const scope = outerScope.inner();
      targets.forEach((target, i) => {
        scope.set(target, args[i]);
      });
      enter(scope);
      names.forEach((one, i) => {
        if (scope.get(targets[i]) !== MISSING) return;
        const otherwise = () => new Undefined(() => `parameter ${quote(one)} was not provided`);
        scope.set(targets[i], defaults[i]?.(scope) ?? (defaults[i] ? null : otherwise()));
      });
      const out = new Output();
      body(scope, out);
      return out.text();
    });
}

/** The tags `call` and `generation`: an anonymous macro that is called immediately. */
export function compileCallBlock(compiler: StatementCompiler, node: CallBlockNode, frame: Frame): Exec {
  const make = macroMaker(compiler, node, undefined, frame);
  const call = node.call && compiler.call(node.call, frame);
  if (call) {
    return (scope, out) => {
      out.write(str(call(scope, make(scope))));
      return Ended.Through;
    };
  }
  // The tag `generation`: its span in the output is an answer of the assistant.
  return (scope, out) => {
    const text = str(make(scope).call([], new Map()));
    const { root, spans } = scope.run;
    spans.push([root.length, root.length + text.length]);
    out.write(text);
    return Ended.Through;
  };
}
