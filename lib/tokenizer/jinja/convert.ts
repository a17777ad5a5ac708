import { LimitExceeded, typeError } from "./errors.js";
import { allocate } from "./meter.js";
import { Dict, type Value } from "./values.js";

/** Maximum nesting of values. */
const MAX_DEPTH = 200;

/**
 * Converts a JavaScript value for templates. Objects are dicts, arrays are lists, null is None. Whole numbers are ints
 * up to 2^53 (beyond, the exact value is not known and the number is a float), or floats if they are boxed (see {@link
 * parseJson}). Undefined fields are left out.
 *
 * @throws PyError TypeError for other types, such as functions and symbols
 */
export function fromJs(value: unknown, depth = 0): Value {
  if (value === null || typeof value === "boolean" || typeof value === "bigint") return value;
  if (typeof value === "string") {
    allocate(value.length);
    return value;
  }
  if (typeof value === "number") return Number.isSafeInteger(value) && !Object.is(value, -0) ? BigInt(value) : value;
  if (typeof value !== "object") throw typeError(`a ${typeof value} cannot be passed to a template`);
  if (value instanceof Number) return value.valueOf();
  if (depth > MAX_DEPTH) throw new LimitExceeded(`its input is nested too deeply (over ${MAX_DEPTH} levels)`);
  if (Array.isArray(value)) {
    allocate(value.length);
    return value.map((item) => (item === undefined ? null : fromJs(item, depth + 1)));
  }
  const entries = value instanceof Map ? [...value] : Object.entries(value);
  const dict = new Dict();
  for (const [key, item] of entries) if (item !== undefined) dict.set(fromJs(key), fromJs(item, depth + 1));
  return dict;
}

/** Numbers that JSON.parse changes: with a point, an exponent or many digits. */
const INEXACT = /-?\d+(?:\.\d+(?:[eE][-+]?\d+)?|[eE][-+]?\d+)|-?\d{16,}|-0/;
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/g;
const MARK = "\u0000number:";

/**
 * JSON.parse() for values of templates, with the semantics of Python's json: 1.0 stays a float, as a boxed number (a
 * Number object, which survives structuredClone and JSON.stringify), and long ints stay exact, as bigints. Other
 * numbers are plain numbers.
 *
 * @throws SyntaxError as JSON.parse does
 */
export function parseJson(text: string): unknown {
  const plain: unknown = JSON.parse(text);
  if (!INEXACT.test(text)) return plain;
  // The text is valid JSON, so strings and numbers are its only tokens with digits.
  const marked = text.replace(TOKEN, (token) => {
    if (token.startsWith('"'))
      return token.includes("\\u0000number:") ? token.replaceAll("\\u0000", "\\u0000\\u0000") : token;
    return INEXACT.test(token) ? JSON.stringify(MARK + token) : token;
  });
  return JSON.parse(marked, (_, value: unknown) => {
    if (typeof value !== "string" || !value.startsWith("\u0000")) return value;
    if (!value.startsWith(MARK)) return value.replaceAll("\u0000\u0000number:", MARK);
    const number = value.slice(MARK.length);
    const double = Number(number);
    if (/[.eE]/.test(number)) return Number.isInteger(double) ? Object(double) : double;
    if (number === "-0") return 0;
    return Number.isSafeInteger(double) ? double : BigInt(number);
  });
}
