import { typeError, valueError } from "./errors.js";
import { allocate, nested, step } from "./meter.js";
import { floatText, intText } from "./numbers.js";
import { ordered } from "./operators.js";
import { str } from "./text.js";
import { asInt, Dict, elements, Tuple, textOf, typeName, type Value } from "./values.js";

/** Options of transformers' filter tojson. */
export interface JsonOptions {
  ascii: boolean;
  /** null: one line; an int or a str: the indentation of one level. */
  indent: Value;
  /** null, or the two separators. */
  separators: Value;
  sortKeys: boolean;
}

/** json.dumps() */
export function toJson(value: Value, options: JsonOptions): string {
  const indent = indentOf(options.indent);
  const [comma, colon] = separatorsOf(options.separators, indent !== undefined);
  const quote = options.ascii ? quoteAscii : quoteJson;
  const out: string[] = [];
  const write = (text: string) => {
    allocate(text.length);
    out.push(text);
  };
  const open = (mark: string, level: number) => write(indent === undefined ? mark : `${mark}\n${indent.repeat(level)}`);
  const between = (level: number) => write(indent === undefined ? comma : `${comma}\n${indent.repeat(level)}`);
  const close = (mark: string, level: number) =>
    write(indent === undefined ? mark : `\n${indent.repeat(level)}${mark}`);
  const each = <T>(marks: string, items: readonly T[], level: number, one: (item: T) => void) => {
    if (items.length === 0) return write(marks);
    open(marks[0], level + 1);
    items.forEach((item, i) => {
      if (i > 0) between(level + 1);
      one(item);
    });
    close(marks[1], level);
  };
  const visit = (one: Value, level: number): void => {
    step();
    const simple = scalar(one, quote);
    if (simple !== undefined) {
      write(simple);
      return;
    }
    if (Array.isArray(one) || one instanceof Tuple) {
      const items = one instanceof Tuple ? one.items : one;
      nested(() => each("[]", items, level, (item) => visit(item, level + 1)));
      return;
    }
    if (!(one instanceof Dict)) throw typeError(`Object of type ${typeName(one)} is not JSON serializable`);
    let entries = [...one.entries()];
    if (options.sortKeys) {
      entries = entries.sort(([a], [b]) => (ordered("<", a, b) ? -1 : ordered("<", b, a) ? 1 : 0));
    }
    nested(() =>
      each("{}", entries, level, ([key, item]) => {
        write(quote(keyText(key)));
        write(colon);
        visit(item, level + 1);
      }),
    );
  };
  visit(value, 0);
  return out.join("");
}

function indentOf(indent: Value): string | undefined {
  if (indent === null) return undefined;
  const text = textOf(indent);
  if (text !== undefined) return text;
  const width = asInt(indent);
  if (width === undefined) throw typeError(`can't multiply sequence by non-int of type '${typeName(indent)}'`);
  if (width > 0n) allocate(Number(width));
  return " ".repeat(width > 0n ? Number(width) : 0);
}

function separatorsOf(separators: Value, isIndented: boolean): [comma: string, colon: string] {
  // json.dumps() treats only None as absent, not other falsy values.
  if (separators === null) return [isIndented ? "," : ", ", ": "];
  const parts = [...elements(separators)];
  if (parts.length > 2) throw valueError("too many values to unpack (expected 2)");
  if (parts.length < 2) throw valueError(`not enough values to unpack (expected 2, got ${parts.length})`);
  const [comma, colon] = parts.map(textOf);
  if (comma === undefined || colon === undefined) throw typeError("separators must be str");
  return [comma, colon];
}

function scalar(value: Value, quote: (text: string) => string): string | undefined {
  if (value === null) return "null";
  if (typeof value === "boolean") return value ? "true" : "false";
  if (typeof value === "bigint") return intText(value);
  if (typeof value === "number") return number(value);
  const text = textOf(value);
  return text === undefined ? undefined : quote(text);
}

function number(value: number): string {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value < 0 ? "-Infinity" : "Infinity";
  return floatText(value);
}

function keyText(key: Value): string {
  const text = textOf(key);
  if (text !== undefined) return text;
  const simple = scalar(key, str);
  if (simple === undefined) {
    throw typeError(`keys must be str, int, float, bool or None, not ${typeName(key)}`);
  }
  return simple;
}

const ESCAPES: Readonly<Record<string, string>> = {
  '"': '\\"',
  "\\": "\\\\",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
  "\b": "\\b",
  "\f": "\\f",
};

function quoteJson(text: string): string {
  allocate(text.length);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: JSON escapes control characters.
  return `"${text.replace(/["\\\x00-\x1f]/g, (c) => ESCAPES[c] ?? unit(c))}"`;
}

function quoteAscii(text: string): string {
  allocate(text.length);
  return `"${text.replace(/["\\]|[^ -~]/g, (c) => ESCAPES[c] ?? unit(c))}"`;
}

function unit(letter: string): string {
  return `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`;
}
