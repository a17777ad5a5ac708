import { compileAssign, compileTarget } from "./assignment.js";
import { PyError, TemplateSyntaxError, typeError, UnsupportedFeature } from "./errors.js";
import { type Eval, ExpressionCompiler, type Frame, innerFrame, softFrame } from "./expressions.js";
import { compileFor } from "./for-loop.js";
import { Ended, type Exec, enterFrame, leaveFrame, located, type StatementCompiler } from "./frames.js";
import { compileCallBlock, compileMacro } from "./macro.js";
import { step } from "./meter.js";
import { type BlockNode, descendants, type Expr, type IfNode, type Stmt } from "./nodes.js";
import { Output, Scope, type Slot } from "./runtime.js";
import { findUndeclared, Symbols } from "./symbols.js";
import { quote, str } from "./text.js";
import { Callable, PyObject, truthy, Undefined, type Value } from "./values.js";

/** A compiled template. */
export type Program = (scope: Scope, out: Output) => void;

/**
 * Compiles a syntax tree to closures. Frames and variables follow the Python code that jinja2 would generate, because
 * that code defines the scope of assignments.
 *
 * @throws TemplateSyntaxError for errors that jinja2 reports at compile time
 */
export function compileTemplate(body: readonly Stmt[]): Program {
  return new Compiler(body).program();
}

class Compiler extends ExpressionCompiler implements StatementCompiler {
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

  /** Compiles the top level of the template or a block, which have access to the context only. */
  #function(body: readonly Stmt[], kind: { toplevel?: boolean; blockFrame?: boolean }): Program {
    const frame: Frame = { symbols: new Symbols(), toplevel: kind.toplevel ?? false, soft: false };
    const undeclared = findUndeclared(body, ["self", "super"]);
    const self = undeclared.has("self") ? frame.symbols.declareParameter("self") : undefined;
    const parent = kind.blockFrame && undeclared.has("super") ? frame.symbols.declareParameter("super") : undefined;
    frame.symbols.analyze(body);
    const run = this.body(body, frame);
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

  body(statements: readonly Stmt[], frame: Frame): Exec {
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
        return compileFor(this, node, frame);
      case "Assign":
        return compileAssign(this, node.target, node.node, frame);
      case "AssignBlock":
        return this.#assignBlock(node, frame);
      case "Macro":
        return compileMacro(this, node, frame);
      case "CallBlock":
        return compileCallBlock(this, node, frame);
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
          // A value that cannot be printed raises at run time.
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
      body: this.body(branch.body, soft),
    }));
    const otherwise = this.body(node.otherwise, soft);
    return (scope, out) => {
      for (const { test, body } of branches) if (truthy(test(scope))) return body(scope, out);
      return otherwise(scope, out);
    };
  }

  #assignBlock(node: Extract<Stmt, { kind: "AssignBlock" }>, frame: Frame): Exec {
    const blockFrame = innerFrame(frame);
    blockFrame.symbols.analyze(node.body);
    const enter = enterFrame(blockFrame.symbols);
    const leave = leaveFrame(blockFrame.symbols);
    const body = this.body(node.body, blockFrame);
    const filter = node.filter && this.filter(node.filter, blockFrame);
    const set = compileTarget(this, node.target, frame);
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

  #filterBlock(node: Extract<Stmt, { kind: "FilterBlock" }>, frame: Frame): Exec {
    const filterFrame = innerFrame(frame);
    filterFrame.symbols.analyze([...node.body, node.filter]);
    const enter = enterFrame(filterFrame.symbols);
    const leave = leaveFrame(filterFrame.symbols);
    const body = this.body(node.body, filterFrame);
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
      set: compileTarget(this, target, withFrame),
      value: this.expression(node.values[i], frame),
    }));
    const body = this.body(node.body, withFrame);
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
    const body = this.body(node.body, inner);
    return (scope, out) => {
      enter(scope);
      if (truthy(value(scope))) throw new UnsupportedFeature("the tag autoescape with true");
      const ended = body(scope, out);
      if (ended === Ended.Through) leave(scope);
      return ended;
    };
  }
}
