import { TemplateSyntaxError } from "./errors.js";
import { ExpressionParser } from "./expression-parser.js";
import { describeExpected, type Token } from "./lexer.js";
import type { BlockNode, CallBlockNode, Expr, ForNode, IfNode, MacroNode, Name, Stmt } from "./nodes.js";
import { quote } from "./text.js";

/** The enclosing loop or function of a statement: `break` can leave a loop but not a function. */
interface Place {
  readonly inLoop: boolean;
}

/**
 * Parses the statements of Jinja, including transformers' additional tags (break, continue, generation).
 *
 * @throws TemplateSyntaxError with jinja2's message and the line
 */
export function parseTemplate(template: string): Stmt[] {
  return new Parser(template).parse();
}

class Parser extends ExpressionParser {
  readonly #tags: string[] = [];
  readonly #ends: string[][] = [];
  #place: Place = { inLoop: false };

  parse(): Stmt[] {
    return this.#parseUntil(undefined);
  }

  #parseUntil(ends: string[] | undefined): Stmt[] {
    if (ends) this.#ends.push(ends);
    const body: Stmt[] = [];
    let texts: Expr[] = [];
    const flush = () => {
      if (texts.length > 0) body.push({ kind: "Output", line: texts[0].line, nodes: texts });
      texts = [];
    };
    while (this.current.type !== "eof") {
      const { type, line, value } = this.current;
      if (type === "data") {
        this.next();
        texts.push({ kind: "TemplateData", line, data: String(value) });
      } else if (type === "variable_begin") {
        this.next();
        texts.push(this.parseTuple());
        this.expect("variable_end");
      } else {
        flush();
        this.next();
        if (ends?.some((end) => this.is(end))) {
          this.#ends.pop();
          return body;
        }
        body.push(this.deeper(() => this.#parseStatement()));
        this.expect("block_end");
      }
    }
    flush();
    if (ends) this.#ends.pop();
    return body;
  }

  /** Parses the body of a statement up to one of its end tags, which is consumed if `drop`. */
  #parseBody(ends: string[], drop: boolean): Stmt[] {
    this.skipIf("colon");
    this.expect("block_end");
    const body = this.#parseUntil(ends);
    if (this.current.type === "eof") throw this.#unexpected(undefined, [...this.#ends, ends], this.current);
    if (drop) this.next();
    return body;
  }

  #within<T>(place: Place, parse: () => T): T {
    const outer = this.#place;
    this.#place = place;
    const result = parse();
    this.#place = outer;
    return result;
  }

  #parseStatement(): Stmt {
    const token = this.current;
    if (token.type !== "name") throw this.fail("tag name expected");
    const tag = String(token.value);
    this.#tags.push(tag);
    const statement = this.#parseTag(tag);
    if (!statement) {
      this.#tags.pop();
      throw this.#unexpected(tag, this.#ends, token);
    }
    this.#tags.pop();
    return statement;
  }

  #parseTag(tag: string): Stmt | undefined {
    const { line } = this.current;
    switch (tag) {
      case "for":
        return this.#parseFor();
      case "if":
        return this.#parseIf();
      case "block":
        return this.#parseBlock();
      case "extends":
      case "include":
      case "import":
      case "from":
        return this.#parseLoad(tag);
      case "print":
        return this.#parsePrint();
      case "macro":
        return this.#parseMacro();
      case "set":
        return this.#parseSet();
      case "with":
        return this.#parseWith();
      case "autoescape": {
        this.next();
        const value = this.parseExpression();
        return { kind: "Autoescape", line, value, body: this.#parseBody(["name:endautoescape"], true) };
      }
      case "call":
        return this.#parseCallBlock();
      case "generation": {
        this.next();
        const body = this.#within({ inLoop: false }, () => this.#parseBody(["name:endgeneration"], true));
        return { kind: "CallBlock", line, call: undefined, args: [], defaults: [], body };
      }
      case "filter": {
        this.next();
        const filter = this.parseFilter(undefined, true);
        return { kind: "FilterBlock", line, filter, body: this.#parseBody(["name:endfilter"], true) };
      }
      case "break":
      case "continue":
        this.next();
        if (!this.#place.inLoop) {
          const what = tag === "break" ? "'break' outside loop" : "'continue' not properly in loop";
          throw new TemplateSyntaxError(what, line);
        }
        return { kind: tag === "break" ? "Break" : "Continue", line };
      default:
        return undefined;
    }
  }

  #parseFor(): ForNode {
    const { line } = this.expect("name:for");
    const target = this.#parseTarget();
    this.expect("name:in");
    const iter = this.parseTuple({ condition: false });
    const test = this.skipIf("name:if") ? this.parseExpression() : undefined;
    const recursive = this.skipIf("name:recursive");
    const body = this.#within({ inLoop: true }, () => this.#parseBody(["name:endfor", "name:else"], false));
    const parseElse = () => this.#parseBody(["name:endfor"], true);
    const place = recursive ? { inLoop: false } : this.#place;
    const otherwise = this.next().value === "endfor" ? [] : this.#within(place, parseElse);
    return { kind: "For", line, target, iter, body, otherwise, test, recursive };
  }

  #parseIf(): IfNode {
    const first = this.#parseBranch(this.expect("name:if").line);
    let branch = first;
    for (;;) {
      const token = this.next();
      if (this.is("name:elif", token)) {
        branch = this.#parseBranch(this.current.line);
        first.elifs.push(branch);
        continue;
      }
      if (this.is("name:else", token)) first.otherwise = this.#parseBody(["name:endif"], true);
      return first;
    }
  }

  #parseBranch(line: number): IfNode {
    const test = this.parseTuple({ condition: false });
    const body = this.#parseBody(["name:elif", "name:else", "name:endif"], false);
    return { kind: "If", line, test, body, elifs: [], otherwise: [] };
  }

  #parseBlock(): BlockNode {
    const { line } = this.next();
    const name = String(this.expect("name").value);
    const scoped = this.skipIf("name:scoped");
    const required = this.skipIf("name:required");
    if (this.current.type === "sub") {
      throw this.fail(
        "Block names in Jinja have to be valid Python identifiers and may not contain hyphens, use an underscore instead.",
      );
    }
    const body = this.#within({ inLoop: false }, () => this.#parseBody(["name:endblock"], true));
    const isBlank = (node: Stmt) =>
      node.kind === "Output" && node.nodes.every((one) => one.kind === "TemplateData" && one.data.trim() === "");
    if (required && !body.every(isBlank)) throw this.fail("Required blocks can only contain comments or whitespace");
    this.skipIf(`name:${name}`);
    return { kind: "Block", line, name, body, scoped, required };
  }

  /** Parses a tag that loads another template. It raises at run time, because there is no loader. */
  #parseLoad(tag: "include" | "import" | "from" | "extends"): Stmt {
    const { line } = this.next();
    const template = this.parseExpression();
    const stores: string[] = [];
    if (tag === "include" && this.is("name:ignore") && this.is("name:missing", this.following)) {
      this.next();
      this.next();
    }
    if (tag === "import") {
      this.expect("name:as");
      stores.push(this.#parseName("store").name);
    }
    if (tag === "from") {
      this.expect("name:import");
      for (;;) {
        if (stores.length > 0) this.expect("comma");
        if (this.#skipContext()) return { kind: "Load", line, tag, template, stores };
        const { name } = this.#parseName("store");
        if (name.startsWith("_")) throw this.fail("names starting with an underline can not be imported", line);
        stores.push(this.skipIf("name:as") ? this.#parseName("store").name : name);
        if (this.current.type !== "comma") break;
      }
    }
    if (tag !== "extends") this.#skipContext();
    return { kind: "Load", line, tag, template, stores };
  }

  #skipContext(): boolean {
    const isContext = (this.is("name:with") || this.is("name:without")) && this.is("name:context", this.following);
    if (isContext) {
      this.next();
      this.next();
    }
    return isContext;
  }

  #parsePrint(): Stmt {
    const { line } = this.next();
    const nodes: Expr[] = [];
    while (this.current.type !== "block_end") {
      if (nodes.length > 0) this.expect("comma");
      nodes.push(this.parseExpression());
    }
    return { kind: "Output", line, nodes };
  }

  #parseSignature(): { args: Name[]; defaults: Expr[] } {
    const args: Name[] = [];
    const defaults: Expr[] = [];
    this.expect("lparen");
    while (this.current.type !== "rparen") {
      if (args.length > 0) this.expect("comma");
      const arg = this.#parseName("param");
      if (this.skipIf("assign")) defaults.push(this.parseExpression());
      else if (defaults.length > 0) throw this.fail("non-default argument follows default argument");
      if (args.some((one) => one.name === arg.name)) {
        throw this.fail(`duplicate argument '${arg.name}' in function definition`);
      }
      args.push(arg);
    }
    this.expect("rparen");
    return { args, defaults };
  }

  #parseMacro(): MacroNode {
    const { line } = this.next();
    const { name } = this.#parseName("store");
    const { args, defaults } = this.#parseSignature();
    const body = this.#within({ inLoop: false }, () => this.#parseBody(["name:endmacro"], true));
    return { kind: "Macro", line, name, args, defaults, body };
  }

  #parseCallBlock(): CallBlockNode {
    const { line } = this.next();
    const { args, defaults } = this.current.type === "lparen" ? this.#parseSignature() : { args: [], defaults: [] };
    const call = this.parseExpression();
    if (call.kind !== "Call") throw this.fail("expected call", line);
    if (call.kwargs.some(({ key }) => key === "caller")) throw this.fail("keyword argument repeated: caller", line);
    const body = this.#within({ inLoop: false }, () => this.#parseBody(["name:endcall"], true));
    return { kind: "CallBlock", line, call, args, defaults, body };
  }

  #parseSet(): Stmt {
    const { line } = this.next();
    const target = this.#parseTarget(true);
    if (this.skipIf("assign")) return { kind: "Assign", line, target, node: this.parseTuple() };
    const filter = this.current.type === "pipe" ? this.parseFilter(undefined) : undefined;
    return { kind: "AssignBlock", line, target, filter, body: this.#parseBody(["name:endset"], true) };
  }

  #parseWith(): Stmt {
    const { line } = this.next();
    const targets: Expr[] = [];
    const values: Expr[] = [];
    while (this.current.type !== "block_end") {
      if (targets.length > 0) this.expect("comma");
      targets.push(setContext(this.#parseTarget(), "param"));
      this.expect("assign");
      values.push(this.parseExpression());
    }
    return { kind: "With", line, targets, values, body: this.#parseBody(["name:endwith"], true) };
  }

  #parseTarget(namespace = false): Expr {
    const target = setContext(this.parseTuple({ simplified: true, namespace }), "store");
    this.#checkTarget(target, target);
    return target;
  }

  #checkTarget(target: Expr, whole: Expr): void {
    if (target.kind === "Tuple") {
      for (const item of target.items) this.#checkTarget(item, whole);
    } else if (target.kind !== "Name" && target.kind !== "NSRef") {
      throw this.fail(`can't assign to '${whole.kind.toLowerCase()}'`, whole.line);
    }
  }

  #parseName(ctx: "store" | "param"): Name {
    const { value, line } = this.expect("name");
    const name = String(value);
    if (/^(true|false|none|True|False|None)$/.test(name)) throw this.fail("can't assign to 'name'", line);
    return { kind: "Name", line, name, ctx };
  }

  /** The error for an unknown tag or the end of the template where another tag was expected. */
  #unexpected(tag: string | undefined, ends: string[][], token: Token): TemplateSyntaxError {
    const expected = new Set(ends.flat().map(describeExpected));
    const looking = ends
      .at(-1)
      ?.map((end) => quote(describeExpected(end)))
      .join(" or ");
    const message = [tag === undefined ? "Unexpected end of template." : `Encountered unknown tag '${tag}'.`];
    if (looking && tag !== undefined && expected.has(tag)) {
      message.push(
        `You probably made a nesting mistake. Jinja is expecting this tag, but currently looking for ${looking}.`,
      );
    } else if (looking) message.push(`Jinja was looking for the following tags: ${looking}.`);
    const innermost = this.#tags.at(-1);
    if (innermost) message.push(`The innermost block that needs to be closed is '${innermost}'.`);
    return new TemplateSyntaxError(message.join(" "), token.line);
  }
}

function setContext(target: Expr, ctx: "store" | "param"): Expr {
  if (target.kind === "Name") target.ctx = ctx;
  if (target.kind === "Tuple") for (const item of target.items) setContext(item, ctx);
  return target;
}
