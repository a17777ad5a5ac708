import { allocate, nested, step } from "./meter.js";
import { floatText, intText } from "./numbers.js";
import { UNPRINTABLE } from "./unicode.js";
import { Dict, Markup, PyObject, Tuple, type Value } from "./values.js";

/** str() of a value. */
export function str(value: Value): string {
  if (typeof value === "string") return value;
  if (value instanceof PyObject && !(value instanceof Dict) && !(value instanceof Tuple)) return value.str();
  return repr(value);
}

/** repr() of a value. */
export function repr(value: Value): string {
  step();
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "bigint") return intText(value);
  if (typeof value === "number") return floatText(value);
  if (typeof value === "string") return quote(value);
  if (Array.isArray(value)) return nested(() => `[${joined(value.map(repr))}]`);
  if (value instanceof Tuple) {
    return nested(() => `(${joined(value.items.map(repr))}${value.items.length === 1 ? "," : ""})`);
  }
  if (value instanceof Dict) {
    return nested(() => `{${joined(Array.from(value.entries(), ([key, one]) => `${repr(key)}: ${repr(one)}`))}}`);
  }
  if (value instanceof Markup) return `Markup(${quote(value.text)})`;
  return value.repr();
}

function joined(parts: readonly string[]): string {
  let length = 0;
  for (const part of parts) length += part.length + 2;
  allocate(length);
  return parts.join(", ");
}

/** A string with Python's choice of quotes and escapes. */
export function quote(text: string): string {
  allocate(text.length + 2);
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  let quoted = "";
  for (const letter of text) {
    if (letter === mark || letter === "\\") quoted += `\\${letter}`;
    else if (letter === "\n") quoted += "\\n";
    else if (letter === "\r") quoted += "\\r";
    else if (letter === "\t") quoted += "\\t";
    else quoted += UNPRINTABLE.test(letter) ? escapeOf(letter) : letter;
  }
  return mark + quoted + mark;
}

/** A character as \xNN, \uNNNN or \UNNNNNNNN. */
export function escapeOf(letter: string): string {
  const code = letter.codePointAt(0) ?? 0;
  const hex = code.toString(16);
  if (code < 0x100) return `\\x${hex.padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
}

/** Escapes non-ASCII characters of an already quoted string, as ascii() does. */
export function toAscii(text: string): string {
  return text.replace(/[^\p{ASCII}]/gu, escapeOf);
}

/** Escapes HTML's special characters as markupsafe.escape does. */
export function escapeHtml(text: string): string {
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll("'", "&#39;")
    .replaceAll('"', "&#34;");
}
