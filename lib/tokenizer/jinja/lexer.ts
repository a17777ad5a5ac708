import { TemplateSyntaxError, UnsupportedFeature } from "./errors.js";
import { quote } from "./text.js";
import { IDENTIFIER, SPACE } from "./unicode.js";

/** A token of a template. `value` is the value of a number token, and the text of all others. */
export interface Token {
  readonly line: number;
  readonly type: string;
  readonly value: string | bigint | number;
}

const OPERATORS: Readonly<Record<string, string>> = {
  "+": "add",
  "-": "sub",
  "/": "div",
  "//": "floordiv",
  "*": "mul",
  "%": "mod",
  "**": "pow",
  "~": "tilde",
  "[": "lbracket",
  "]": "rbracket",
  "(": "lparen",
  ")": "rparen",
  "{": "lbrace",
  "}": "rbrace",
  "==": "eq",
  "!=": "ne",
  ">": "gt",
  ">=": "gteq",
  "<": "lt",
  "<=": "lteq",
  "=": "assign",
  ".": "dot",
  ":": "colon",
  "|": "pipe",
  ",": "comma",
  ";": "semicolon",
};
const SIGNS = Object.fromEntries(Object.entries(OPERATORS).map(([sign, type]) => [type, sign]));
const CLOSING: Readonly<Record<string, string>> = { "{": "}", "(": ")", "[": "]" };

const S = `[${SPACE}]`;
const TAG = /\{[%{#]/g;
const RAW_BEGIN = new RegExp(`\\{%([-+]?)${S}*raw${S}*(?:-%\\}${S}*|%\\})`, "y");
const RAW_END = new RegExp(`\\{%([-+]?)${S}*endraw${S}*(?:\\+%\\}|-%\\}${S}*|%\\}\\n?)`, "g");
const COMMENT_END = new RegExp(`\\+#\\}|-#\\}${S}*|#\\}\\n?`, "g");
const BLOCK_END = new RegExp(`\\+%\\}|-%\\}${S}*|%\\}\\n?`, "y");
const VARIABLE_END = new RegExp(`-\\}\\}${S}*|\\}\\}`, "y");
const WHITE = new RegExp(`${S}+`, "y");
const FLOAT =
  /(?<!\.)(?:\p{Nd}+_)*\p{Nd}+(?:(?:\.(?:\p{Nd}+_)*\p{Nd}+)?e[+-]?(?:\p{Nd}+_)*\p{Nd}+|\.(?:\p{Nd}+_)*\p{Nd}+)/iuy;
const INTEGER = /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[0-9a-f])+|[1-9](?:_?\p{Nd})*|0(?:_?0)*/iuy;
const NAME = /[\p{L}\p{N}\p{M}_·]+/uy;
const STRING = /'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*"/sy;
const OPERATOR = /\*\*|\/\/|==|!=|>=|<=|[-+/*%~[\](){}><=.:|,;]/y;
const TRAILING_SPACE = new RegExp(`${S}+$`);

/**
 * Splits a template into tokens as jinja2's lexer does with trim_blocks and lstrip_blocks.
 *
 * @throws TemplateSyntaxError with the line
 */
export function tokenize(template: string): Token[] {
  const lines = template.split(/\r\n|\r|\n/);
  // The final line end of the template is not part of the text.
  if (lines[lines.length - 1] === "") lines.pop();
  return new Lexer(lines.join("\n")).run();
}

class Lexer {
  readonly #source: string;
  readonly #tokens: Token[] = [];
  #at = 0;
  #line = 1;
  #isLineStart = true;

  constructor(source: string) {
    this.#source = source;
  }

  run(): Token[] {
    for (;;) {
      TAG.lastIndex = this.#at;
      const tag = TAG.exec(this.#source);
      if (!tag) {
        if (this.#at < this.#source.length) this.#push("data", this.#source.slice(this.#at));
        return this.#tokens;
      }
      this.#root(tag.index);
    }
  }

  /** Reads text up to a tag, then the tag. */
  #root(start: number): void {
    const source = this.#source;
    const raw = this.#match(RAW_BEGIN, start);
    const isVariable = source.startsWith("{{", start);
    const signed = /[-+]/.test(source[start + 2] ?? "") ? source[start + 2] : "";
    const sign = raw ? raw[1] : signed;
    this.#data(source.slice(this.#at, start), sign, isVariable);
    const whole = raw ? raw[0] : source.slice(start, start + 2 + signed.length);
    this.#at = start;
    if (raw) {
      this.#advance(whole);
      this.#raw();
    } else if (isVariable) {
      this.#push("variable_begin", whole);
      this.#tag(VARIABLE_END, "variable_end");
    } else if (source.startsWith("{#", start)) {
      this.#advance(whole);
      this.#comment();
    } else {
      this.#push("block_begin", whole);
      this.#tag(BLOCK_END, "block_end");
    }
  }

  /** Emits template text before a tag, without the white space that the tag removes. */
  #data(text: string, sign: string, isVariable: boolean): void {
    let kept = text;
    if (sign === "-") kept = text.replace(TRAILING_SPACE, "");
    else if (sign !== "+" && !isVariable) {
      const lineStart = text.lastIndexOf("\n") + 1;
      const isBlank = text.slice(lineStart).replace(TRAILING_SPACE, "") === "";
      if ((lineStart > 0 || this.#isLineStart) && isBlank) kept = text.slice(0, lineStart);
    }
    if (kept !== "") this.#tokens.push({ line: this.#line, type: "data", value: kept });
    this.#line += newlines(text);
  }

  #comment(): void {
    COMMENT_END.lastIndex = this.#at;
    const end = COMMENT_END.exec(this.#source);
    if (!end) throw this.#fail("Missing end of comment tag");
    this.#advance(this.#source.slice(this.#at, end.index + end[0].length));
  }

  #raw(): void {
    RAW_END.lastIndex = this.#at;
    const end = RAW_END.exec(this.#source);
    if (!end) throw this.#fail("Missing end of raw directive");
    this.#data(this.#source.slice(this.#at, end.index), end[1], false);
    this.#at = end.index;
    this.#advance(end[0]);
  }

  /** Reads the inside of a tag, up to its end. */
  #tag(end: RegExp, endType: string): void {
    const open: string[] = [];
    while (this.#at < this.#source.length) {
      const close = open.length === 0 ? this.#match(end, this.#at) : null;
      if (close) {
        this.#push(endType, close[0]);
        return;
      }
      this.#token(open);
    }
  }

  #token(open: string[]): void {
    const white = this.#match(WHITE, this.#at);
    if (white) {
      this.#advance(white[0]);
      return;
    }
    if (this.#literal()) return;
    const operator = this.#match(OPERATOR, this.#at);
    if (!operator) {
      const letter = String.fromCodePoint(this.#source.codePointAt(this.#at) ?? 0);
      throw this.#fail(`unexpected char ${quote(letter)} at ${[...this.#source.slice(0, this.#at)].length}`);
    }
    const [sign] = operator;
    if (CLOSING[sign]) open.push(CLOSING[sign]);
    else if (sign === "}" || sign === ")" || sign === "]") {
      const expected = open.pop();
      if (expected === undefined) throw this.#fail(`unexpected '${sign}'`);
      if (expected !== sign) throw this.#fail(`unexpected '${sign}', expected '${expected}'`);
    }
    this.#push(OPERATORS[sign], sign);
  }

  /** Reads a number, a name or a string; returns false if there is none. */
  #literal(): boolean {
    const float = this.#match(FLOAT, this.#at);
    const integer = float ? null : this.#match(INTEGER, this.#at);
    const name = float || integer ? null : this.#match(NAME, this.#at);
    const string = float || integer || name ? null : this.#match(STRING, this.#at);
    if (float) this.#push("float", float[0], Number(asciiDigits(float[0].replaceAll("_", ""))));
    else if (integer) this.#push("integer", integer[0], this.#integer(integer[0]));
    else if (name) {
      if (!IDENTIFIER.test(name[0])) throw this.#fail("Invalid character in identifier");
      this.#push("name", name[0]);
    } else if (string) this.#push("string", string[0], unescapeLiteral(string[0].slice(1, -1), this.#line));
    else return false;
    return true;
  }

  #integer(text: string): bigint {
    const digits = asciiDigits(text.replaceAll("_", "").toLowerCase());
    if (digits.length > 4300 && !/^0[xob]/.test(digits)) {
      throw this.#fail("Exceeds the limit (4300 digits) for integer string conversion");
    }
    return BigInt(digits);
  }

  #match(pattern: RegExp, at: number): RegExpExecArray | null {
    pattern.lastIndex = at;
    return pattern.exec(this.#source);
  }

  #push(type: string, text: string, value: Token["value"] = text): void {
    this.#tokens.push({ line: this.#line, type, value });
    this.#advance(text);
  }

  #advance(text: string): void {
    this.#at += text.length;
    this.#line += newlines(text);
    this.#isLineStart = text.endsWith("\n");
  }

  #fail(message: string): TemplateSyntaxError {
    return new TemplateSyntaxError(message, this.#line);
  }
}

function newlines(text: string): number {
  return text.split("\n").length - 1;
}

function asciiDigits(text: string): string {
  if (/[^\p{ASCII}]/u.test(text)) throw new UnsupportedFeature("a number literal in other digits than 0 to 9");
  return text;
}

const ESCAPE =
  /\\(?:(\n)|([\\'"abfnrtv])|([0-7]{1,3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(N)|([xuU])|()$)/g;
const LETTERS: Readonly<Record<string, string>> = { a: "\x07", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t", v: "\v" };

/**
 * The value of a string literal, by Python's codec unicode-escape. As in Jinja, non-ASCII characters are first
 * converted to escapes, so that after a backslash they stay escapes.
 */
function unescapeLiteral(literal: string, line: number): string {
  const ascii = literal.replace(/\\([^\p{ASCII}])/gu, (_, letter: string) => {
    const code = (letter.codePointAt(0) ?? 0).toString(16);
    return `\\\\${code.length <= 2 ? "x" : code.length <= 4 ? "u" : "U"}${code.padStart(code.length <= 2 ? 2 : code.length <= 4 ? 4 : 8, "0")}`;
  });
  // A pair of backslashes is one escape and does not escape the next character.
  return ascii.replace(ESCAPE, (_, newline, letter, octal, x, u, wide, named, broken) => {
    if (newline) return "";
    if (letter) return LETTERS[letter] ?? letter;
    if (octal) return String.fromCodePoint(Number.parseInt(octal, 8));
    if (named) throw new UnsupportedFeature("characters by name (\\N{...}) in a string literal");
    const hex = x ?? u ?? wide;
    if (broken !== undefined || hex === undefined) {
      const forms: Record<string, string> = { x: "\\xXX", u: "\\uXXXX", U: "\\UXXXXXXXX" };
      const what = broken ? `truncated ${forms[broken]} escape` : "\\ at end of string";
      throw new TemplateSyntaxError(what, line);
    }
    const code = Number.parseInt(hex, 16);
    if (code > 0x10ffff) throw new TemplateSyntaxError("illegal Unicode character", line);
    if (code >= 0xd800 && code < 0xe000)
      throw new UnsupportedFeature("a lone surrogate (\\ud800 to \\udfff) in a string literal");
    return String.fromCodePoint(code);
  });
}

/** The name of a token type in messages. */
export function describeType(type: string): string {
  const names: Readonly<Record<string, string>> = {
    block_begin: "begin of statement block",
    block_end: "end of statement block",
    variable_begin: "begin of print statement",
    variable_end: "end of print statement",
    data: "template data / text",
    eof: "end of template",
  };
  return SIGNS[type] ?? names[type] ?? type;
}

/** The name of a token in messages. */
export function describeToken(token: Token): string {
  return token.type === "name" ? String(token.value) : describeType(token.type);
}

/** The name of an expected token in messages: a type, or "name:for". */
export function describeExpected(expected: string): string {
  const [type, value] = expected.split(":");
  return type === "name" && value !== undefined ? value : describeType(type);
}
