import { getAttribute, getItem, lookUp } from "./access.js";
import { PyError, TemplateSyntaxError, typeError } from "./errors.js";
import { FILTERS, isContextFilter } from "./filters.js";
import { allocate, step } from "./meter.js";
import type { Arguments, CallNode, Expr, FilterNode } from "./nodes.js";
import { binary, compare, unary } from "./operators.js";
import { MISSING, type Scope } from "./runtime.js";
import { slice } from "./sequences.js";
import { Symbols } from "./symbols.js";
import { TESTS } from "./tests.js";
import { quote, str } from "./text.js";
import {
  Dict,
  elements,
  type Kwargs,
  Markup,
  PyObject,
  Tuple,
  truthy,
  typeName,
  Undefined,
  type Value,
} from "./values.js";

/** A compiled expression. */
export type Eval = (scope: Scope) => Value;

/** A scope of Jinja at compile time. */
export interface Frame {
  readonly symbols: Symbols;
  /** Whether assignments here define variables of the template. */
  readonly toplevel: boolean;
  /** Whether this is a branch, in which an unknown filter is an error only when it is reached. */
  readonly soft: boolean;
}

export function innerFrame(frame: Frame): Frame {
  return { symbols: new Symbols(frame.symbols), toplevel: false, soft: false };
}

export function softFrame(frame: Frame): Frame {
  return { symbols: frame.symbols.copy(), toplevel: frame.toplevel, soft: true };
}

type Constant = { readonly value: Value } | undefined;
type Call = (value: Value, args: readonly Value[], kwargs: Kwargs) => Value;

/** Compiles expressions to closures. Constant expressions are evaluated once, in the same cases as in jinja2. */
export class ExpressionCompiler {
  readonly #constants = new Map<Expr, Constant>();

  /** The value of a constant expression, undefined if it must be evaluated at run time. */
  protected constant(node: Expr): Constant {
    if (!this.#constants.has(node)) {
      let constant: Constant;
      try {
        constant = this.#fold(node);
      } catch {
        // An expression that raises is evaluated at run time.
      }
      this.#constants.set(node, constant);
    }
    return this.#constants.get(node);
  }

  #fold(node: Expr): Constant {
    const all = (nodes: readonly Expr[]): Value[] | undefined => {
      const values: Value[] = [];
      for (const one of nodes) {
        const constant = this.constant(one);
        if (!constant) return undefined;
        values.push(constant.value);
      }
      return values;
    };
    const optional = (one: Expr | undefined): Constant => (one ? this.constant(one) : { value: null });
    switch (node.kind) {
      case "Const":
        return { value: node.value };
      case "TemplateData":
        return { value: node.data };
      case "Tuple":
      case "List": {
        const values = all(node.items);
        return values && { value: node.kind === "List" ? values : new Tuple(values) };
      }
      case "Dict": {
        const values = all(node.items.flatMap(({ key, value }) => [key, value]));
        return values && { value: Dict.of(node.items.map((_, i) => [values[2 * i], values[2 * i + 1]])) };
      }
      case "And":
      case "Or": {
        const left = this.constant(node.left);
        return left && truthy(left.value) === (node.kind === "And") ? this.constant(node.right) : left;
      }
      case "CondExpr": {
        const test = this.constant(node.test);
        if (!test) return undefined;
        return truthy(test.value) ? this.constant(node.then) : node.otherwise && this.constant(node.otherwise);
      }
      case "Compare": {
        let left = this.constant(node.expr);
        for (const { op, expr } of node.ops) {
          const right = this.constant(expr);
          if (!left || !right) return undefined;
          if (!compare(op, left.value, right.value)) return { value: false };
          left = right;
        }
        return { value: true };
      }
      case "Not": {
        const constant = this.constant(node.node);
        return constant && { value: !truthy(constant.value) };
      }
      case "Unary": {
        const constant = this.constant(node.node);
        return constant && { value: unary(node.op, constant.value) };
      }
      case "Binary": {
        const values = all([node.left, node.right]);
        return values && { value: binary(node.op, values[0], values[1]) };
      }
      case "Concat": {
        const values = all(node.nodes);
        return values && { value: concatenate(values) };
      }
      case "Getattr": {
        const constant = this.constant(node.node);
        return constant && { value: getAttribute(constant.value, node.attr) };
      }
      case "Getitem": {
        const constant = this.constant(node.node);
        if (!constant) return undefined;
        if (node.arg.kind === "Slice") {
          const [start, stop, by] = [optional(node.arg.start), optional(node.arg.stop), optional(node.arg.step)];
          if (!start || !stop || !by) return undefined;
          // jinja2 folds slices with its own lookup, which returns an undefined value where Python would raise.
          return {
            value: lookUp(constant.value, null, () => slice(constant.value, start.value, stop.value, by.value)),
          };
        }
        const key = this.constant(node.arg);
        return key && { value: getItem(constant.value, key.value) };
      }
      case "Filter":
      case "Test": {
        if (!node.node || (node.kind === "Filter" && isContextFilter(node.name))) return undefined;
        const call: Call | undefined = node.kind === "Filter" ? FILTERS.get(node.name) : TESTS.get(node.name);
        const values = all([node.node, ...node.args, ...node.kwargs.map(({ value }) => value)]);
        if (!call || !values || node.dynArgs || node.dynKwargs) return undefined;
        const named = new Map(node.kwargs.map(({ key }, i) => [key, values[1 + node.args.length + i]]));
        return { value: call(values[0], values.slice(1, 1 + node.args.length), named) };
      }
      default:
        return undefined;
    }
  }

  /** The variable behind a name. */
  target(name: string, frame: Frame, line: number): string {
    const target = frame.symbols.ref(name);
    if (target !== undefined) return target;
    const what = `Tried to resolve a name to a reference that was unknown to the frame (${quote(name)})`;
    throw new TemplateSyntaxError(what, line);
  }

  expression(node: Expr, frame: Frame): Eval {
    const constant = this.constant(node);
    if (constant && isSafe(constant.value)) {
      const { value } = constant;
      if (hasNonFinite(value)) {
        // jinja2 writes these constants into its generated code as bare names, which are not defined in Python.
        return () => {
          throw new PyError("NameError", "name 'inf' is not defined");
        };
      }
      return () => value;
    }
    const evaluate = this.#compileExpression(node, frame);
    return (scope) => {
      step();
      return evaluate(scope);
    };
  }

  #compileExpression(node: Expr, frame: Frame): Eval {
    switch (node.kind) {
      case "Const":
        return () => node.value;
      case "TemplateData":
        return () => node.data;
      case "Name": {
        const { name } = node;
        const target = this.target(name, frame, node.line);
        return (scope) => {
          const value = scope.get(target);
          return value === MISSING ? Undefined.named(name) : value;
        };
      }
      case "Tuple":
      case "List": {
        const items = node.items.map((item) => this.expression(item, frame));
        const evaluate = (scope: Scope) => {
          allocate(items.length);
          return items.map((item) => item(scope));
        };
        return node.kind === "List" ? evaluate : (scope) => new Tuple(evaluate(scope));
      }
      case "Dict": {
        const pairs = node.items.map(({ key, value }) => [this.expression(key, frame), this.expression(value, frame)]);
        return (scope) => Dict.of(pairs.map(([key, value]) => [key(scope), value(scope)] as const));
      }
      case "CondExpr":
        return this.#conditional(node, frame);
      case "And":
      case "Or": {
        const [left, right] = [this.expression(node.left, frame), this.expression(node.right, frame)];
        const goesOn = node.kind === "And";
        return (scope) => {
          const value = left(scope);
          return truthy(value) === goesOn ? right(scope) : value;
        };
      }
      case "Not": {
        const inner = this.expression(node.node, frame);
        return (scope) => !truthy(inner(scope));
      }
      case "Unary": {
        const inner = this.expression(node.node, frame);
        return (scope) => unary(node.op, inner(scope));
      }
      case "Binary": {
        const [left, right] = [this.expression(node.left, frame), this.expression(node.right, frame)];
        const base = node.op === "**" ? this.constant(node.left)?.value : undefined;
        if ((typeof base === "number" || typeof base === "bigint") && str(base).startsWith("-")) {
          // jinja2 writes a negative constant without parentheses, so that Python applies the power before the sign.
          return (scope) => unary("-", binary("**", -base, right(scope)));
        }
        return (scope) => binary(node.op, left(scope), right(scope));
      }
      case "Compare":
        return this.#comparison(node, frame);
      case "Concat": {
        const parts = node.nodes.map((one) => this.expression(one, frame));
        return (scope) => concatenate(parts.map((part) => part(scope)));
      }
      case "Getattr": {
        const object = this.expression(node.node, frame);
        return (scope) => getAttribute(object(scope), node.attr);
      }
      case "Getitem":
        return this.#subscript(node.node, node.arg, frame);
      case "Filter": {
        const filter = this.filter(node, frame);
        const value = node.node && this.expression(node.node, frame);
        return (scope) => filter(scope, value ? value(scope) : "");
      }
      case "Test":
        return this.#test(node, frame);
      case "Call": {
        const call = this.call(node, frame);
        return (scope) => call(scope);
      }
      case "Slice":
        throw new TemplateSyntaxError("invalid syntax: a slice among several indices", node.line);
      case "NSRef":
        throw new TemplateSyntaxError("invalid syntax", node.line);
    }
  }

  #conditional(node: Extract<Expr, { kind: "CondExpr" }>, outer: Frame): Eval {
    const frame = softFrame(outer);
    const test = this.expression(node.test, frame);
    const then = this.expression(node.then, frame);
    const otherwise = node.otherwise && this.expression(node.otherwise, frame);
    const message = `the inline if-expression on line ${node.line} evaluated to false and no else section was defined.`;
    return (scope) => {
      if (truthy(test(scope))) return then(scope);
      return otherwise ? otherwise(scope) : new Undefined(() => message);
    };
  }

  #comparison(node: Extract<Expr, { kind: "Compare" }>, frame: Frame): Eval {
    const first = this.expression(node.expr, frame);
    const rest = node.ops.map(({ op, expr }) => ({ op, value: this.expression(expr, frame) }));
    return (scope) => {
      let left = first(scope);
      for (const { op, value } of rest) {
        const right = value(scope);
        if (!compare(op, left, right)) return false;
        left = right;
      }
      return true;
    };
  }

  #subscript(node: Expr, arg: Expr, frame: Frame): Eval {
    const object = this.expression(node, frame);
    if (arg.kind !== "Slice") {
      const key = this.expression(arg, frame);
      return (scope) => getItem(object(scope), key(scope));
    }
    const [start, stop, by] = [arg.start, arg.stop, arg.step].map((one) => one && this.expression(one, frame));
    return (scope) => slice(object(scope), start?.(scope) ?? null, stop?.(scope) ?? null, by?.(scope) ?? null);
  }

  /** Compiles a filter to a function of its value. */
  filter(node: FilterNode, frame: Frame): (scope: Scope, value: Value) => Value {
    const filter = this.#named("filter", node.name, node.line, frame, FILTERS);
    const args = this.#arguments(node, frame);
    const inner = node.node?.kind === "Filter" && isBlockFilter(node.node) ? this.filter(node.node, frame) : undefined;
    return (scope, value) => {
      const filtered = inner ? inner(scope, value) : value;
      const { positional, named } = args(scope);
      return filter(filtered, positional, named);
    };
  }

  #test(node: Extract<Expr, { kind: "Test" }>, frame: Frame): Eval {
    const test = this.#named("test", node.name, node.line, frame, TESTS);
    const value = this.expression(node.node, frame);
    const args = this.#arguments(node, frame);
    return (scope) => {
      const tested = value(scope);
      const { positional, named } = args(scope);
      return test(tested, positional, named);
    };
  }

  #named(kind: "filter" | "test", name: string, line: number, frame: Frame, all: ReadonlyMap<string, Call>): Call {
    const found = all.get(name);
    if (found) return found;
    if (!frame.soft) throw new TemplateSyntaxError(`No ${kind} named ${quote(name)}.`, line);
    return () => {
      throw new PyError("TemplateRuntimeError", `No ${kind} named ${quote(name)} found.`);
    };
  }

  /** Compiles a call; a call block passes its body as `caller`. */
  call(node: CallNode, frame: Frame): (scope: Scope, caller?: Value) => Value {
    const callee = this.expression(node.node, frame);
    const args = this.#arguments(node, frame);
    return (scope, caller) => {
      const called = callee(scope);
      const { positional, named } = args(scope);
      if (caller !== undefined) named.set("caller", caller);
      if (called instanceof Undefined) throw called.fail();
      if (!(called instanceof PyObject) || !called.call)
        throw typeError(`'${typeName(called)}' object is not callable`);
      return called.call(positional, named);
    };
  }

  #arguments(node: Arguments, frame: Frame): (scope: Scope) => { positional: Value[]; named: Map<string, Value> } {
    const args = node.args.map((arg) => this.expression(arg, frame));
    const kwargs = node.kwargs.map(({ key, value }) => ({ key, value: this.expression(value, frame) }));
    const more = node.dynArgs && this.expression(node.dynArgs, frame);
    const moreNamed = node.dynKwargs && this.expression(node.dynKwargs, frame);
    return (scope) => {
      const positional = args.map((arg) => arg(scope));
      if (more) for (const value of elements(more(scope))) positional.push(value);
      const named = new Map<string, Value>();
      for (const { key, value } of kwargs) named.set(key, value(scope));
      const mapping = moreNamed?.(scope);
      if (mapping === undefined) return { positional, named };
      if (!(mapping instanceof Dict)) throw typeError(`argument after ** must be a mapping, not ${typeName(mapping)}`);
      for (const [key, value] of mapping.entries()) {
        if (typeof key !== "string") throw typeError("keywords must be strings");
        if (named.has(key)) throw typeError(`got multiple values for keyword argument '${key}'`);
        named.set(key, value);
      }
      return { positional, named };
    };
  }
}

/** Whether a chain of filters ends in a block's text. */
function isBlockFilter(node: FilterNode): boolean {
  return node.node === undefined || (node.node.kind === "Filter" && isBlockFilter(node.node));
}

/** a ~ b ~ c */
function concatenate(values: readonly Value[]): string {
  const parts = values.map(str);
  allocate(parts.reduce((sum, part) => sum + part.length, 0));
  return parts.join("");
}

/** Whether jinja2 would write the value into its generated code; other values are created at run time. */
function isSafe(value: Value): boolean {
  if (Array.isArray(value)) return value.every(isSafe);
  if (value instanceof Tuple) return value.items.every(isSafe);
  if (value instanceof Dict) return [...value.entries()].every(([key, one]) => isSafe(key) && isSafe(one));
  return !(value instanceof PyObject) || value instanceof Markup || value.typeName === "range";
}

function hasNonFinite(value: Value): boolean {
  if (typeof value === "number") return !Number.isFinite(value);
  if (Array.isArray(value)) return value.some(hasNonFinite);
  if (value instanceof Tuple) return value.items.some(hasNonFinite);
  return value instanceof Dict && [...value.entries()].some(([key, one]) => hasNonFinite(key) || hasNonFinite(one));
}
