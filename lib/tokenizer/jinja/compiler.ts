import { PyError, TemplateSyntaxError, typeError, UnsupportedFeature } from "./errors.js";
import { type Eval, ExpressionCompiler, type Frame, innerFrame, softFrame } from "./expressions.js";
import { enterFrame, leaveFrame, located, unpack } from "./frames.js";
import { step } from "./meter.js";
import {
  type BlockNode,
  type CallBlockNode,
  descendants,
  type Expr,
  type ForNode,
  type IfNode,
  type MacroNode,
  type Stmt,
} from "./nodes.js";
import {
  assignAttribute,
  LoopContext,
  Macro,
  type MacroSignature,
  MISSING,
  Namespace,
  Output,
  Scope,
  type Slot,
} from "./runtime.js";
import { findUndeclared, Symbols } from "./symbols.js";
import { quote, str } from "./text.js";
import { Callable, elements, Generator, iterate, PyObject, truthy, Undefined, type Value } from "./values.js";

/** How a statement ended: run through, or left by break or continue. */
enum Ended {
  Through,
  Break,
  Continue,
}

/** A statement: writes to the output and says how it ended. */
type Exec = (scope: Scope, out: Output) => Ended;
type Setter = (scope: Scope, value: Value) => void;

/** A template that can be run. */
export type Program = (scope: Scope, out: Output) => void;

/**
 * Makes closures of a syntax tree. Frames and variables follow the Python code that jinja2 would generate, since what
 * an assignment reaches is defined by that code.
 *
 * @throws TemplateSyntaxError for what jinja2 refuses when it compiles
 */
export function compileTemplate(body: readonly Stmt[]): Program {
  return new Compiler(body).program();
}

class Compiler extends ExpressionCompiler {
  readonly #body: readonly Stmt[];
  readonly #blocks = new Map<string, Program>();
  readonly #blockNodes = new Map<string, BlockNode>();

  constructor(body: readonly Stmt[]) {
    super();
    this.#body = body;
  }

  program(): Program {
    for (const statement of this.#body) {
      for (const node of [statement, ...descendants(statement)]) {
        if (node.kind !== "Block") continue;
        if (this.#blockNodes.has(node.name))
          throw new TemplateSyntaxError(`block ${quote(node.name)} defined twice`, node.line);
        this.#blockNodes.set(node.name, node);
      }
    }
    const root = this.#function(this.#body, { toplevel: true });
    for (const [name, node] of this.#blockNodes) {
      this.#blocks.set(name, this.#function(node.body, { blockFrame: true }));
    }
    return root;
  }

  /** The template's top or a block: a function that sees the context alone. */
  #function(body: readonly Stmt[], kind: { toplevel?: boolean; blockFrame?: boolean }): Program {
    const frame: Frame = { symbols: new Symbols(), toplevel: kind.toplevel ?? false, soft: false };
    const undeclared = findUndeclared(body, ["self", "super"]);
    const self = undeclared.has("self") ? frame.symbols.declareParameter("self") : undefined;
    const parent = kind.blockFrame && undeclared.has("super") ? frame.symbols.declareParameter("super") : undefined;
    frame.symbols.analyze(body);
    const run = this.#all(body, frame);
    const enter = enterFrame(frame.symbols);
    return (scope, out) => {
      if (self) scope.set(self, this.#reference(scope));
      if (parent) scope.set(parent, new Undefined(() => "there is no parent block called 'super'."));
      enter(scope);
      run(scope, out);
    };
  }

  /** The variable `self`: its items are the template's blocks. */
  #reference(scope: Scope): PyObject {
    const blocks = this.#blocks;
    return new (class extends PyObject {
      readonly typeName = "TemplateReference";
      override repr(): string {
        return "<TemplateReference None>";
      }
      override item(key: Value): Value {
        const block = typeof key === "string" ? blocks.get(key) : undefined;
        if (!block) throw new PyError("KeyError", "no such block");
        return new Callable("BlockReference", String(key), () => {
          const out = new Output();
          block(new Scope(scope.run, scope.context), out);
          return out.text();
        });
      }
    })();
  }

  #all(statements: readonly Stmt[], frame: Frame): Exec {
    const list = statements.map((statement) => this.#statement(statement, frame));
    return (scope, out) => {
      for (const exec of list) {
        const ended = exec(scope, out);
        if (ended !== Ended.Through) return ended;
      }
      return Ended.Through;
    };
  }

  #statement(node: Stmt, frame: Frame): Exec {
    const exec = this.#compile(node, frame);
    return (scope, out) => {
      step();
      return located(node.line, () => exec(scope, out));
    };
  }

  #compile(node: Stmt, frame: Frame): Exec {
    switch (node.kind) {
      case "Output":
        return this.#output(node.nodes, frame);
      case "If":
        return this.#if(node, frame);
      case "For":
        return this.#for(node, frame);
      case "Assign":
        return this.#assign(node.target, node.node, frame);
      case "AssignBlock":
        return this.#assignBlock(node, frame);
      case "Macro":
        return this.#macro(node, frame);
      case "CallBlock":
        return this.#callBlock(node, frame);
      case "FilterBlock":
        return this.#filterBlock(node, frame);
      case "With":
        return this.#with(node, frame);
      case "Block":
        return this.#block(node, frame);
      case "Autoescape":
        return this.#autoescape(node, frame);
      case "Load": {
        if (node.tag === "extends" && !frame.toplevel) {
          throw new TemplateSyntaxError("cannot use extend from a non top-level scope", node.line);
        }
        const template = this.expression(node.template, frame);
        return (scope) => {
          template(scope);
          throw typeError("no loader for this environment specified");
        };
      }
      case "Break":
        return () => Ended.Break;
      case "Continue":
        return () => Ended.Continue;
    }
  }

  #output(nodes: readonly Expr[], frame: Frame): Exec {
    const parts = nodes.map((node): string | Eval => {
      if (node.kind === "TemplateData") return node.data;
      const constant = this.constant(node);
      if (constant) {
        try {
          return str(constant.value);
        } catch {
          // What cannot be printed is met when it is reached.
        }
      }
      return this.expression(node, frame);
    });
    return (scope, out) => {
      for (const [i, part] of parts.entries()) {
        out.write(typeof part === "string" ? part : located(nodes[i].line, () => str(part(scope))));
      }
      return Ended.Through;
    };
  }

  #if(node: IfNode, frame: Frame): Exec {
    const soft = softFrame(frame);
    const branches = [node, ...node.elifs].map((branch) => ({
      test: this.expression(branch.test, soft),
      body: this.#all(branch.body, soft),
    }));
    const otherwise = this.#all(node.otherwise, soft);
    return (scope, out) => {
      for (const { test, body } of branches) if (truthy(test(scope))) return body(scope, out);
      return otherwise(scope, out);
    };
  }

  #for(node: ForNode, frame: Frame): Exec {
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

    const filter = this.#loopFilter(node, frame, loopFrame);
    const setTarget = this.#setter(node.target, loopFrame);
    const enter = enterFrame(loopFrame.symbols);
    const leave = leaveFrame(loopFrame.symbols);
    const body = this.#all(node.body, loopFrame);
    const enterElse = enterFrame(elseFrame.symbols);
    const leaveElse = leaveFrame(elseFrame.symbols);
    const otherwise = node.otherwise.length > 0 ? this.#all(node.otherwise, elseFrame) : undefined;
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
        // As in jinja2's code, only a turn that ran through keeps the else part from running.
        if (ended === Ended.Through) isUntouched = false;
      }
      if (!keepsVariables) leave(scope);
      if (!otherwise || !isUntouched) return Ended.Through;
      enterElse(scope);
      const ended = otherwise(scope, out);
      if (ended === Ended.Through) leaveElse(scope);
      return ended;
    };

    const iter = this.expression(node.iter, frame);
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

  /** The elements for which a loop's condition holds, worked out one by one. */
  #loopFilter(node: ForNode, frame: Frame, loopFrame: Frame): ((scope: Scope, iterable: Value) => Value) | undefined {
    if (!node.test) return undefined;
    const testFrame = innerFrame(frame);
    testFrame.symbols.analyzeFor(node, "test");
    const enter = enterFrame(testFrame.symbols);
    const setTarget = this.#setter(node.target, loopFrame);
    const test = this.expression(node.test, testFrame);
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

  #assign(target: Expr, value: Expr, frame: Frame): Exec {
    const references = [target, ...descendants(target)].flatMap((node) =>
      node.kind === "NSRef" ? [this.target(node.name, frame, node.line)] : [],
    );
    const evaluate = this.expression(value, frame);
    const set = this.#setter(target, frame);
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
  #setter(target: Expr, frame: Frame): Setter {
    if (target.kind === "Name") {
      const { name } = target;
      const variable = this.target(name, frame, target.line);
      if (!frame.toplevel) return (scope, value) => scope.set(variable, value);
      return (scope, value) => {
        scope.set(variable, value);
        scope.context.vars.set(name, value);
      };
    }
    if (target.kind === "NSRef") {
      const variable = this.target(target.name, frame, target.line);
      return (scope, value) => assignAttribute(scope.get(variable), target.attr, value);
    }
    const setters = target.kind === "Tuple" ? target.items.map((item) => this.#setter(item, frame)) : [];
    return (scope, value) => {
      const items: Value[] = [];
      for (const item of unpack(value)) {
        if (items.length === setters.length) {
          throw new PyError("ValueError", `too many values to unpack (expected ${setters.length})`);
        }
        items.push(item);
      }
      if (items.length < setters.length) {
        throw new PyError(
          "ValueError",
          `not enough values to unpack (expected ${setters.length}, got ${items.length})`,
        );
      }
      setters.forEach((set, i) => {
        set(scope, items[i]);
      });
    };
  }

  #assignBlock(node: Extract<Stmt, { kind: "AssignBlock" }>, frame: Frame): Exec {
    const blockFrame = innerFrame(frame);
    blockFrame.symbols.analyze(node.body);
    const enter = enterFrame(blockFrame.symbols);
    const leave = leaveFrame(blockFrame.symbols);
    const body = this.#all(node.body, blockFrame);
    const filter = node.filter && this.filter(node.filter, blockFrame);
    const set = this.#setter(node.target, frame);
    return (scope) => {
      const buffer = new Output();
      enter(scope);
      const ended = body(scope, buffer);
      if (ended !== Ended.Through) return ended;
      const text = buffer.text();
      set(scope, filter ? filter(scope, text) : text);
      leave(scope);
      return Ended.Through;
    };
  }

  #macro(node: MacroNode, frame: Frame): Exec {
    const make = this.#macroMaker(node, node.name, frame);
    const variable = this.target(node.name, frame, node.line);
    return (scope) => {
      const macro = make(scope);
      if (frame.toplevel) scope.context.vars.set(node.name, macro);
      scope.set(variable, macro);
      return Ended.Through;
    };
  }

  #macroMaker(node: MacroNode | CallBlockNode, name: string | undefined, outer: Frame): (scope: Scope) => Macro {
    const frame = innerFrame(outer);
    const { symbols } = frame;
    const nodes = [...node.args, ...node.defaults, ...node.body];
    symbols.analyze(nodes);
    const names = node.args.map((arg) => arg.name);
    const targets = names.map((one) => this.target(one, frame, node.line));
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
      i < firstDefault ? undefined : this.expression(node.defaults[i - firstDefault], frame),
    );
    const body = this.#all(node.body, frame);
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

  #callBlock(node: CallBlockNode, frame: Frame): Exec {
    const make = this.#macroMaker(node, undefined, frame);
    const call = node.call && this.call(node.call, frame);
    if (call) {
      return (scope, out) => {
        out.write(str(call(scope, make(scope))));
        return Ended.Through;
      };
    }
    // The tag `generation`: its place in the output is what the assistant says.
    return (scope, out) => {
      const text = str(make(scope).call([], new Map()));
      const { root, spans } = scope.run;
      spans.push([root.length, root.length + text.length]);
      out.write(text);
      return Ended.Through;
    };
  }

  #filterBlock(node: Extract<Stmt, { kind: "FilterBlock" }>, frame: Frame): Exec {
    const filterFrame = innerFrame(frame);
    filterFrame.symbols.analyze([...node.body, node.filter]);
    const enter = enterFrame(filterFrame.symbols);
    const leave = leaveFrame(filterFrame.symbols);
    const body = this.#all(node.body, filterFrame);
    const filter = this.filter(node.filter, filterFrame);
    return (scope, out) => {
      enter(scope);
      const buffer = new Output();
      const ended = body(scope, buffer);
      if (ended !== Ended.Through) return ended;
      out.write(str(filter(scope, buffer.text())));
      leave(scope);
      return Ended.Through;
    };
  }

  #with(node: Extract<Stmt, { kind: "With" }>, frame: Frame): Exec {
    const withFrame = innerFrame(frame);
    withFrame.symbols.analyze([...node.targets, ...node.body]);
    const enter = enterFrame(withFrame.symbols);
    const leave = leaveFrame(withFrame.symbols);
    const sets = node.targets.map((target, i) => ({
      set: this.#setter(target, withFrame),
      value: this.expression(node.values[i], frame),
    }));
    const body = this.#all(node.body, withFrame);
    return (scope, out) => {
      enter(scope);
      for (const { set, value } of sets) set(scope, value(scope));
      const ended = body(scope, out);
      if (ended === Ended.Through) leave(scope);
      return ended;
    };
  }

  #block(node: BlockNode, frame: Frame): Exec {
    const names = [...frame.symbols.storedNames()];
    return (scope, out) => {
      if (node.required) throw new PyError("TemplateRuntimeError", `Required block ${quote(node.name)} not found`);
      const locals = new Map<string, Slot>();
      if (node.scoped) for (const [name, target] of names) locals.set(name, scope.get(target));
      const context = node.scoped ? scope.context.derived(locals) : scope.context;
      this.#blocks.get(node.name)?.(new Scope(scope.run, context), out);
      return Ended.Through;
    };
  }

  #autoescape(node: Extract<Stmt, { kind: "Autoescape" }>, frame: Frame): Exec {
    const inner = innerFrame(frame);
    inner.symbols.analyze([node.value, ...node.body]);
    const enter = enterFrame(inner.symbols);
    const leave = leaveFrame(inner.symbols);
    const value = this.expression(node.value, inner);
    const body = this.#all(node.body, inner);
    return (scope, out) => {
      enter(scope);
      if (truthy(value(scope))) throw new UnsupportedFeature("the tag autoescape with true");
      const ended = body(scope, out);
      if (ended === Ended.Through) leave(scope);
      return ended;
    };
  }
}
