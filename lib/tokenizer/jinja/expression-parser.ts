import { TemplateSyntaxError } from "./errors.js";
import { describeExpected, describeToken, type Token, tokenize } from "./lexer.js";
import type { Arguments, CallNode, ComparisonName, Expr, FilterNode } from "./nodes.js";
import { quote } from "./text.js";

const COMPARISONS: ReadonlySet<string> = new Set(["eq", "ne", "lt", "lteq", "gt", "gteq"]);
const SUMS: Readonly<Record<string, "+" | "-">> = { add: "+", sub: "-" };
const PRODUCTS: Readonly<Record<string, "*" | "/" | "//" | "%">> = { mul: "*", div: "/", floordiv: "//", mod: "%" };
const TEST_ARGUMENT = new Set(["name", "string", "integer", "float", "lparen", "lbracket", "lbrace"]);
/** Maximum nesting of expressions or statements, below what would exhaust the stack. */
const MAX_NESTING = 150;

/** Parses the expressions of Jinja as jinja2's parser does. */
export class ExpressionParser {
  readonly #tokens: readonly Token[];
  #at = 0;
  #depth = 0;

  constructor(template: string) {
    const tokens = tokenize(template);
    const line = tokens[tokens.length - 1]?.line ?? 1;
    this.#tokens = [...tokens, { line, type: "eof", value: "" }];
  }

  protected get current(): Token {
    return this.#tokens[this.#at];
  }

  protected get following(): Token {
    return this.#tokens[Math.min(this.#at + 1, this.#tokens.length - 1)];
  }

  protected next(): Token {
    const token = this.current;
    if (token.type !== "eof") this.#at++;
    return token;
  }

  /** Whether a token is of a type, or "name:for". */
  protected is(expected: string, token: Token = this.current): boolean {
    return token.type === expected || (token.type === "name" && expected === `name:${token.value}`);
  }

  protected skipIf(expected: string): boolean {
    const isIt = this.is(expected);
    if (isIt) this.next();
    return isIt;
  }

  protected expect(expected: string): Token {
    if (this.is(expected)) return this.next();
    const wanted = quote(describeExpected(expected));
    if (this.current.type === "eof") throw this.fail(`unexpected end of template, expected ${wanted}.`);
    throw this.fail(`expected token ${wanted}, got ${quote(describeToken(this.current))}`);
  }

  protected fail(message: string, line = this.current.line): TemplateSyntaxError {
    return new TemplateSyntaxError(message, line);
  }

  protected deeper<T>(parse: () => T): T {
    if (++this.#depth > MAX_NESTING) throw this.fail(`nested too deeply (over ${MAX_NESTING} levels)`);
    const result = parse();
    this.#depth--;
    return result;
  }

  protected parseExpression(withCondition = true): Expr {
    return this.deeper(() => (withCondition ? this.#parseCondition() : this.#parseOr()));
  }

  #parseCondition(): Expr {
    let { line } = this.current;
    let then = this.#parseOr();
    while (this.skipIf("name:if")) {
      const test = this.#parseOr();
      const otherwise = this.skipIf("name:else") ? this.deeper(() => this.#parseCondition()) : undefined;
      then = { kind: "CondExpr", line, test, then, otherwise };
      line = this.current.line;
    }
    return then;
  }

  #parseOr(): Expr {
    const { line } = this.current;
    let left = this.#parseAnd();
    while (this.skipIf("name:or")) left = { kind: "Or", line, left, right: this.#parseAnd() };
    return left;
  }

  #parseAnd(): Expr {
    const { line } = this.current;
    let left = this.#parseNot();
    while (this.skipIf("name:and")) left = { kind: "And", line, left, right: this.#parseNot() };
    return left;
  }

  #parseNot(): Expr {
    const { line } = this.current;
    if (!this.skipIf("name:not")) return this.#parseCompare();
    return { kind: "Not", line, node: this.deeper(() => this.#parseNot()) };
  }

  #parseCompare(): Expr {
    const { line } = this.current;
    const expr = this.#parseSum();
    const ops: { op: ComparisonName; expr: Expr }[] = [];
    for (;;) {
      if (COMPARISONS.has(this.current.type)) {
        const op = this.next().type as ComparisonName;
        ops.push({ op, expr: this.#parseSum() });
      } else if (this.skipIf("name:in")) ops.push({ op: "in", expr: this.#parseSum() });
      else if (this.is("name:not") && this.is("name:in", this.following)) {
        this.next();
        this.next();
        ops.push({ op: "notin", expr: this.#parseSum() });
      } else break;
    }
    return ops.length === 0 ? expr : { kind: "Compare", line, expr, ops };
  }

  #parseSum(): Expr {
    const { line } = this.current;
    let left = this.#parseConcat();
    for (let op = SUMS[this.current.type]; op; op = SUMS[this.current.type]) {
      this.next();
      left = { kind: "Binary", line, op, left, right: this.#parseConcat() };
    }
    return left;
  }

  #parseConcat(): Expr {
    const { line } = this.current;
    const nodes = [this.#parseProduct()];
    while (this.skipIf("tilde")) nodes.push(this.#parseProduct());
    return nodes.length === 1 ? nodes[0] : { kind: "Concat", line, nodes };
  }

  #parseProduct(): Expr {
    const { line } = this.current;
    let left = this.#parsePower();
    for (let op = PRODUCTS[this.current.type]; op; op = PRODUCTS[this.current.type]) {
      this.next();
      left = { kind: "Binary", line, op, left, right: this.#parsePower() };
    }
    return left;
  }

  #parsePower(): Expr {
    const { line } = this.current;
    let left = this.#parseUnary();
    while (this.skipIf("pow")) left = { kind: "Binary", line, op: "**", left, right: this.#parseUnary() };
    return left;
  }

  #parseUnary(withFilter = true): Expr {
    const { line, type } = this.current;
    let node: Expr;
    if (type === "sub" || type === "add") {
      this.next();
      node = { kind: "Unary", line, op: SUMS[type], node: this.deeper(() => this.#parseUnary(false)) };
    } else node = this.parsePrimary();
    node = this.#parsePostfix(node);
    return withFilter ? this.#parseFilters(node) : node;
  }

  protected parsePrimary(withNamespace = false): Expr {
    const token = this.current;
    const { line } = token;
    switch (token.type) {
      case "name": {
        this.next();
        const name = String(token.value);
        if (/^(true|false|True|False)$/.test(name))
          return { kind: "Const", line, value: name.toLowerCase() === "true" };
        if (/^(none|None)$/.test(name)) return { kind: "Const", line, value: null };
        if (withNamespace && this.skipIf("dot")) {
          return { kind: "NSRef", line, name, attr: String(this.expect("name").value) };
        }
        return { kind: "Name", line, name, ctx: "load" };
      }
      case "string": {
        let value = "";
        while (this.current.type === "string") value += String(this.next().value);
        return { kind: "Const", line, value };
      }
      case "integer":
      case "float":
        this.next();
        return { kind: "Const", line, value: token.value };
      case "lparen": {
        this.next();
        const node = this.deeper(() => this.parseTuple({ parentheses: true }));
        this.expect("rparen");
        return node;
      }
      case "lbracket":
        return { kind: "List", line, items: this.#parseItems("lbracket", "rbracket", () => this.parseExpression()) };
      case "lbrace":
        return { kind: "Dict", line, items: this.#parseItems("lbrace", "rbrace", () => this.#parsePair()) };
      default:
        throw this.fail(`unexpected ${quote(describeToken(token))}`);
    }
  }

  #parsePair(): { key: Expr; value: Expr } {
    const key = this.parseExpression();
    this.expect("colon");
    return { key, value: this.parseExpression() };
  }

  #parseItems<T>(open: string, close: string, parse: () => T): T[] {
    this.expect(open);
    const items: T[] = [];
    while (this.current.type !== close) {
      if (items.length > 0) this.expect("comma");
      if (this.current.type === close) break;
      items.push(parse());
    }
    this.expect(close);
    return items;
  }

  /** Parses one expression, or several separated by commas as a tuple. */
  protected parseTuple(
    options: { simplified?: boolean; condition?: boolean; parentheses?: boolean; namespace?: boolean } = {},
  ): Expr {
    const { simplified, condition = true, parentheses = false, namespace = false } = options;
    let { line } = this.current;
    const items: Expr[] = [];
    let isTuple = false;
    for (;;) {
      if (items.length > 0) this.expect("comma");
      if (["variable_end", "block_end", "rparen"].includes(this.current.type)) break;
      items.push(simplified ? this.deeper(() => this.parsePrimary(namespace)) : this.parseExpression(condition));
      if (this.current.type !== "comma") break;
      isTuple = true;
      line = this.current.line;
    }
    if (!isTuple) {
      if (items.length > 0) return items[0];
      if (!parentheses) throw this.fail(`Expected an expression, got ${quote(describeToken(this.current))}`);
    }
    return { kind: "Tuple", line, items };
  }

  #parsePostfix(start: Expr): Expr {
    let node = start;
    for (;;) {
      if (this.current.type === "dot" || this.current.type === "lbracket") node = this.#parseSubscript(node);
      else if (this.current.type === "lparen") node = this.#parseCall(node);
      else return node;
    }
  }

  #parseFilters(start: Expr): Expr {
    let node = start;
    for (;;) {
      if (this.current.type === "pipe") node = this.parseFilter(node);
      else if (this.is("name:is")) node = this.#parseTest(node);
      else if (this.current.type === "lparen") node = this.#parseCall(node);
      else return node;
    }
  }

  #parseSubscript(node: Expr): Expr {
    const { line, type } = this.next();
    if (type === "dot") {
      const attribute = this.next();
      if (attribute.type === "name") return { kind: "Getattr", line, node, attr: String(attribute.value) };
      if (attribute.type !== "integer") throw this.fail("expected name or number", attribute.line);
      return { kind: "Getitem", line, node, arg: { kind: "Const", line: attribute.line, value: attribute.value } };
    }
    const items: Expr[] = [];
    while (this.current.type !== "rbracket") {
      if (items.length > 0) this.expect("comma");
      items.push(this.#parseSubscribed());
    }
    this.expect("rbracket");
    const arg: Expr = items.length === 1 ? items[0] : { kind: "Tuple", line, items };
    return { kind: "Getitem", line, node, arg };
  }

  #parseSubscribed(): Expr {
    const { line } = this.current;
    let start: Expr | undefined;
    if (this.current.type !== "colon") {
      start = this.parseExpression();
      if (this.current.type !== "colon") return start;
    }
    this.next();
    const isEnd = () => this.current.type === "rbracket" || this.current.type === "comma";
    const stop = this.current.type === "colon" || isEnd() ? undefined : this.parseExpression();
    const step = this.skipIf("colon") && !isEnd() ? this.parseExpression() : undefined;
    return { kind: "Slice", line, start, stop, step };
  }

  protected parseArguments(): Arguments {
    const { line } = this.expect("lparen");
    const args: Expr[] = [];
    const kwargs: { key: string; value: Expr }[] = [];
    let dynArgs: Expr | undefined;
    let dynKwargs: Expr | undefined;
    const ensure = (isRight: boolean) => {
      if (!isRight) throw this.fail("invalid syntax for function call expression", line);
    };
    let needsComma = false;
    while (this.current.type !== "rparen") {
      if (needsComma) {
        this.expect("comma");
        if (this.is("rparen")) break;
      }
      if (this.skipIf("mul")) {
        ensure(dynArgs === undefined && dynKwargs === undefined);
        dynArgs = this.parseExpression();
      } else if (this.skipIf("pow")) {
        ensure(dynKwargs === undefined);
        dynKwargs = this.parseExpression();
      } else if (this.current.type === "name" && this.following.type === "assign") {
        ensure(dynKwargs === undefined);
        const key = String(this.next().value);
        this.next();
        if (kwargs.some((one) => one.key === key)) throw this.fail(`keyword argument repeated: ${key}`, line);
        kwargs.push({ key, value: this.parseExpression() });
      } else {
        ensure(dynArgs === undefined && dynKwargs === undefined && kwargs.length === 0);
        args.push(this.parseExpression());
      }
      needsComma = true;
    }
    this.expect("rparen");
    return { args, kwargs, dynArgs, dynKwargs };
  }

  #parseCall(node: Expr): CallNode {
    const { line } = this.current;
    return { kind: "Call", line, node, ...this.parseArguments() };
  }

  /** Parses one filter including its bar. */
  protected parseFilter(node: Expr | undefined, inline = false): FilterNode {
    let filtered = node;
    let isInline = inline;
    for (;;) {
      if (!isInline) this.next();
      const token = this.expect("name");
      const name = this.#parseDottedName(String(token.value));
      const given = this.current.type === "lparen" ? this.parseArguments() : NO_ARGUMENTS;
      const filter: FilterNode = { kind: "Filter", line: token.line, node: filtered, name, ...given };
      if (this.current.type !== "pipe") return filter;
      filtered = filter;
      isInline = false;
    }
  }

  #parseDottedName(start: string): string {
    let name = start;
    while (this.skipIf("dot")) name += `.${this.expect("name").value}`;
    return name;
  }

  #parseTest(node: Expr): Expr {
    const { line } = this.next();
    const isNegated = this.skipIf("name:not");
    const name = this.#parseDottedName(String(this.expect("name").value));
    let given: Arguments = NO_ARGUMENTS;
    if (this.current.type === "lparen") given = this.parseArguments();
    else if (TEST_ARGUMENT.has(this.current.type) && !/^(else|or|and)$/.test(nameOf(this.current))) {
      if (this.is("name:is")) throw this.fail("You cannot chain multiple tests with is");
      const argument = this.#parsePostfix(this.deeper(() => this.parsePrimary()));
      given = { ...NO_ARGUMENTS, args: [argument] };
    }
    const test: Expr = { kind: "Test", line, node, name, ...given };
    return isNegated ? { kind: "Not", line, node: test } : test;
  }
}

const NO_ARGUMENTS: Arguments = { args: [], kwargs: [], dynArgs: undefined, dynKwargs: undefined };

function nameOf(token: Token): string {
  return token.type === "name" ? String(token.value) : "";
}
