import { type Bound, intOf, method, textArgument } from "./calls.js";
import { typeError, UnsupportedFeature, valueError } from "./errors.js";
import { allocate, scan, search } from "./meter.js";
import { slice } from "./sequences.js";
import { capitalize, caseFold, isLower, isTitle, isUpper, swapCase, title } from "./string-case.js";
import * as unicode from "./unicode.js";
import {
  type Callable,
  codePoints,
  elements,
  isPlain,
  lengthOf,
  Tuple,
  textOf,
  truthy,
  typeName,
  type Value,
} from "./values.js";

/** Parameters and body of each method of str; the body receives the string, then the arguments. */
type Methods = Record<string, [parameters: string, body: (text: string, ...args: Bound) => Value]>;

const all = (pattern: RegExp) => (text: string) => {
  scan(text.length);
  return text !== "" && [...text].every((letter) => pattern.test(letter));
};

const METHODS: Methods = {
  capitalize: ["/", (text) => capitalize(text)],
  casefold: ["/", (text) => caseFold(text)],
  center: ["/ width fillchar?", (text, width, fill) => justify(text, width, fill, "center")],
  count: [
    "/ sub start? end?",
    (text, sub, start, end) => count(within(text, start, end), textArgument("argument", sub)),
  ],
  endswith: ["/ suffix start? end?", (text, suffix, start, end) => affixed("endswith", text, suffix, start, end)],
  expandtabs: ["tabsize?", (text, size) => expandTabs(text, intOf(size, 8n))],
  find: ["/ sub start? end?", (text, sub, start, end) => find(text, sub, start, end, false)],
  index: ["/ sub start? end?", (text, sub, start, end) => found(find(text, sub, start, end, false))],
  isalnum: ["/", all(unicode.ALNUM)],
  isalpha: ["/", all(unicode.ALPHA)],
  isascii: ["/", (text) => /^\p{ASCII}*$/u.test(text)],
  isdecimal: ["/", all(unicode.DECIMAL)],
  isdigit: ["/", all(unicode.DIGITS)],
  isidentifier: ["/", (text) => unicode.IDENTIFIER.test(text)],
  islower: ["/", (text) => isLower(text)],
  isnumeric: ["/", all(unicode.NUMERICS)],
  isprintable: ["/", (text) => ![...text].some((letter) => unicode.UNPRINTABLE.test(letter))],
  isspace: ["/", all(unicode.IS_SPACE)],
  istitle: ["/", (text) => isTitle(text)],
  isupper: ["/", (text) => isUpper(text)],
  join: ["/ iterable", (text, items) => join(text, items ?? null)],
  ljust: ["/ width fillchar?", (text, width, fill) => justify(text, width, fill, "left")],
  lower: ["/", (text) => text.toLowerCase()],
  lstrip: ["/ chars?", (text, chars) => stripped("lstrip", text, chars, true, false)],
  partition: ["/ sep", (text, sep) => partition(text, sep, false)],
  removeprefix: ["/ prefix", (text, prefix) => removed(text, textArgument("removeprefix() argument", prefix), true)],
  removesuffix: ["/ suffix", (text, suffix) => removed(text, textArgument("removesuffix() argument", suffix), false)],
  replace: ["/ old new count?", (text, old, by, times) => replaced(text, old, by, times)],
  rfind: ["/ sub start? end?", (text, sub, start, end) => find(text, sub, start, end, true)],
  rindex: ["/ sub start? end?", (text, sub, start, end) => found(find(text, sub, start, end, true))],
  rjust: ["/ width fillchar?", (text, width, fill) => justify(text, width, fill, "right")],
  rpartition: ["/ sep", (text, sep) => partition(text, sep, true)],
  rsplit: ["sep? maxsplit?", (text, sep, limit) => split(text, sep, limit, true)],
  rstrip: ["/ chars?", (text, chars) => stripped("rstrip", text, chars, false, true)],
  split: ["sep? maxsplit?", (text, sep, limit) => split(text, sep, limit, false)],
  splitlines: ["keepends?", (text, keep) => counted(unicode.splitLines(text, keep !== undefined && truthy(keep)))],
  startswith: ["/ prefix start? end?", (text, prefix, start, end) => affixed("startswith", text, prefix, start, end)],
  strip: ["/ chars?", (text, chars) => stripped("strip", text, chars, true, true)],
  swapcase: ["/", (text) => swapCase(text)],
  title: ["/", (text) => title(text)],
  upper: ["/", (text) => text.toUpperCase()],
  zfill: ["/ width", (text, width) => zfill(text, intOf(width, 0n))],
};

const LEFT_OUT = new Set(["encode", "maketrans", "translate"]);

/** A method of a string, except `format` and `format_map`; undefined if str has no method of that name. */
export function stringMethod(text: string, name: string): Callable | undefined {
  if (LEFT_OUT.has(name)) throw new UnsupportedFeature(`the method str.${name}`);
  if (!Object.hasOwn(METHODS, name)) return undefined;
  const [parameters, body] = METHODS[name];
  return method(name, parameters, (...args) => {
    allocate(text.length);
    return body(text, ...args);
  });
}

function counted(list: string[]): Value[] {
  allocate(list.length);
  return list;
}

/** The part of the text between two indices, with the index rules of the search methods. */
function within(text: string, start: Value | undefined, end: Value | undefined): string {
  if ((start ?? null) === null && (end ?? null) === null) return text;
  return slice(text, start ?? null, end ?? null, null) as string;
}

function count(text: string, sub: string): bigint {
  if (sub === "") return BigInt(codePoints(text) + 1);
  search(text.length, sub.length);
  return BigInt(text.split(sub).length - 1);
}

function find(
  text: string,
  sub: Value | undefined,
  start: Value | undefined,
  end: Value | undefined,
  last: boolean,
): bigint {
  const part = textArgument("find() argument 1", sub);
  const from = Number((start ?? null) === null ? 0n : intOf(start, 0n));
  const length = codePoints(text);
  const offset = Math.max(0, from < 0 ? from + length : from);
  if (offset > length) return -1n;
  const stretch = within(text, start, end);
  if ((end ?? null) !== null) {
    const to = Number(intOf(end, 0n));
    if ((to < 0 ? Math.max(0, to + length) : to) < offset) return -1n;
  }
  search(stretch.length, part.length);
  const at = last ? stretch.lastIndexOf(part) : stretch.indexOf(part);
  if (at < 0) return -1n;
  return BigInt(offset + (isPlain(stretch) ? at : codePoints(stretch.slice(0, at))));
}

function found(index: bigint): bigint {
  if (index < 0n) throw valueError("substring not found");
  return index;
}

function affixed(
  name: string,
  text: string,
  affix: Value | undefined,
  start: Value | undefined,
  end: Value | undefined,
): boolean {
  const length = BigInt(codePoints(text));
  const stretch = within(text, start, end);
  const from = (start ?? null) === null ? 0n : intOf(start, 0n);
  const isPast = from > length;
  const test = (value: Value): boolean => {
    const part = textOf(value);
    if (part === undefined) {
      const what =
        affix instanceof Tuple
          ? `tuple for ${name} must only contain str`
          : `${name} first arg must be str or a tuple of str`;
      throw typeError(`${what}, not ${typeName(value)}`);
    }
    if (isPast) return false;
    return name === "startswith" ? stretch.startsWith(part) : stretch.endsWith(part);
  };
  return affix instanceof Tuple ? affix.items.some(test) : test(affix ?? null);
}

function join(separator: string, items: Value): string {
  const parts: string[] = [];
  let length = 0;
  for (const item of elements(items)) {
    const part = textOf(item);
    if (part === undefined) {
      throw typeError(`sequence item ${parts.length}: expected str instance, ${typeName(item)} found`);
    }
    length += part.length + separator.length;
    allocate(1);
    parts.push(part);
  }
  allocate(length);
  return parts.join(separator);
}

function justify(
  text: string,
  width: Value | undefined,
  fill: Value | undefined,
  side: "left" | "right" | "center",
): string {
  const filler = fill === undefined ? " " : textOf(fill);
  if (filler === undefined)
    throw typeError(`The fill character must be a unicode character, not ${typeName(fill ?? null)}`);
  if (lengthOf(filler) !== 1) throw typeError("The fill character must be exactly one character long");
  const missing = Number(intOf(width, 0n)) - codePoints(text);
  if (missing <= 0) return text;
  allocate(missing);
  if (side === "left") return text + filler.repeat(missing);
  if (side === "right") return filler.repeat(missing) + text;
  // CPython puts the odd column on the left only when both the missing and the whole width are odd.
  const before = Math.floor(missing / 2) + (missing & Number(intOf(width, 0n)) & 1);
  return filler.repeat(before) + text + filler.repeat(missing - before);
}

/** str.center(width) for the filter of that name. */
export function center(text: string, width: Value): string {
  return justify(text, width, undefined, "center");
}

function stripped(name: string, text: string, chars: Value | undefined, left: boolean, right: boolean): string {
  const set = (chars ?? null) === null ? undefined : textOf(chars ?? null);
  if ((chars ?? null) !== null && set === undefined) throw typeError(`${name} arg must be None or str`);
  return unicode.strip(text, set, left, right);
}

function partition(text: string, sep: Value | undefined, last: boolean): Tuple {
  const mark = textOf(sep ?? null);
  if (mark === undefined) throw typeError(`must be str, not ${typeName(sep ?? null)}`);
  if (mark === "") throw valueError("empty separator");
  search(text.length, mark.length);
  const at = last ? text.lastIndexOf(mark) : text.indexOf(mark);
  if (at < 0) return new Tuple(last ? ["", "", text] : [text, "", ""]);
  return new Tuple([text.slice(0, at), mark, text.slice(at + mark.length)]);
}

function removed(text: string, affix: string, atStart: boolean): string {
  if (affix === "") return text;
  if (atStart) return text.startsWith(affix) ? text.slice(affix.length) : text;
  return text.endsWith(affix) ? text.slice(0, -affix.length) : text;
}

function replaced(text: string, old: Value | undefined, by: Value | undefined, times: Value | undefined): string {
  const [from, to] = [textOf(old ?? null), textOf(by ?? null)];
  if (from === undefined) throw typeError(`replace() argument 1 must be str, not ${typeName(old ?? null)}`);
  if (to === undefined) throw typeError(`replace() argument 2 must be str, not ${typeName(by ?? null)}`);
  return replace(text, from, to, intOf(times, -1n));
}

/** str.replace(old, new, count); a negative count replaces all. */
export function replace(text: string, from: string, to: string, times: bigint): string {
  search(text.length, from.length);
  const parts = from === "" ? ["", ...text, ""] : text.split(from);
  const limit = times < 0n || times >= BigInt(parts.length) ? parts.length - 1 : Number(times);
  allocate(text.length + limit * to.length + parts.length);
  if (limit === parts.length - 1) return parts.join(to);
  return parts.slice(0, limit + 1).join(to) + from + parts.slice(limit + 1).join(from);
}

function split(text: string, sep: Value | undefined, limit: Value | undefined, fromRight: boolean): Value[] {
  const most = Number(intOf(limit, -1n));
  if ((sep ?? null) === null) return counted(unicode.splitSpace(text, most < 0 ? -1 : most, fromRight));
  const mark = textOf(sep ?? null);
  if (mark === undefined) throw typeError(`must be str or None, not ${typeName(sep ?? null)}`);
  if (mark === "") throw valueError("empty separator");
  search(text.length, mark.length);
  if (fromRight && most >= 0) {
    const parts: string[] = [];
    let rest = text;
    for (let at = rest.lastIndexOf(mark); at >= 0 && parts.length < most; at = rest.lastIndexOf(mark)) {
      parts.unshift(rest.slice(at + mark.length));
      rest = rest.slice(0, at);
    }
    return counted([rest, ...parts]);
  }
  const parts = text.split(mark);
  if (most < 0 || parts.length <= most + 1) return counted(parts);
  return counted([...parts.slice(0, most), parts.slice(most).join(mark)]);
}

function expandTabs(text: string, size: bigint): string {
  let column = 0n;
  let expanded = "";
  for (const letter of text) {
    if (letter === "\t") {
      const spaces = size > 0n ? Number(size - (column % size)) : 0;
      allocate(spaces);
      expanded += " ".repeat(spaces);
      column += BigInt(spaces);
    } else {
      expanded += letter;
      column = letter === "\n" || letter === "\r" ? 0n : column + 1n;
    }
  }
  return expanded;
}

function zfill(text: string, width: bigint): string {
  const missing = Number(width) - codePoints(text);
  if (missing <= 0) return text;
  allocate(missing);
  const sign = /^[+-]/.test(text) ? text[0] : "";
  return sign + "0".repeat(missing) + text.slice(sign.length);
}
