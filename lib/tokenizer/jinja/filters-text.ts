import { intOf } from "./calls.js";
import { PyError, typeError, UnsupportedFeature, valueError } from "./errors.js";
import type { Filter } from "./filter-helpers.js";
import { filter, flag, leftOut, softText } from "./filter-helpers.js";
import { formatPercent } from "./format-percent.js";
import { toJson } from "./json.js";
import { allocate, scan } from "./meter.js";
import { binary } from "./operators.js";
import { slice } from "./sequences.js";
import { capitalize } from "./string-case.js";
import { center, replace } from "./string-methods.js";
import { escapeHtml, str } from "./text.js";
import { SPACE, splitLines, splitSpace, strip, WORDS } from "./unicode.js";
import {
  Dict,
  elements,
  type Kwargs,
  lengthOf,
  Markup,
  Tuple,
  textOf,
  typeName,
  Undefined,
  type Value,
} from "./values.js";

const escapeValue = (value: Value) => (value instanceof Markup ? value : new Markup(counted(escapeHtml(str(value)))));

/** Filters on text. */
export const TEXT_FILTERS: [string, Filter][] = [
  filter("capitalize", "", (value) => softText(value, (text) => counted(capitalize(text)))),
  filter("center", "width?", (value, width) => softText(value, (text) => center(text, width ?? 80n))),
  filter("e", "", escapeValue),
  filter("escape", "", escapeValue),
  filter("forceescape", "", (value) => new Markup(counted(escapeHtml(str(value))))),
  ["format", formatFilter],
  filter("indent", "width? first? blank?", indent),
  filter("lower", "", (value) => softText(value, (text) => counted(text.toLowerCase()))),
  leftOut("pprint"),
  filter("replace", "old new count?", (value, old, by, count) => {
    const times = (count ?? null) === null ? -1n : intOf(count, -1n);
    return replace(str(value), str(old ?? null), str(by ?? null), times);
  }),
  filter("safe", "", (value) => new Markup(str(value))),
  filter("string", "", (value) => (value instanceof Markup ? value : str(value))),
  filter("striptags", "", (value) => stripTags(str(value))),
  filter("title", "", (value) => softText(value, title)),
  filter("tojson", "ensure_ascii? indent? separators? sort_keys?", (value, ascii, indentation, separators, sortKeys) =>
    toJson(value, {
      ascii: flag(ascii, false),
      indent: indentation ?? null,
      separators: separators ?? null,
      sortKeys: flag(sortKeys, false),
    }),
  ),
  filter("trim", "chars?", (value, chars) => {
    const set = (chars ?? null) === null ? undefined : textOf(chars ?? null);
    if ((chars ?? null) !== null && set === undefined) throw typeError("strip arg must be None or str");
    return softText(value, (text) => counted(strip(text, set, true, true)));
  }),
  filter("truncate", "length? killwords? end? leeway?", truncate),
  filter("upper", "", (value) => softText(value, (text) => counted(text.toUpperCase()))),
  filter("urlencode", "", urlEncode),
  leftOut("urlize"),
  filter("wordcount", "", (value) => {
    const text = str(value);
    scan(text.length);
    return BigInt(text.match(WORDS)?.length ?? 0);
  }),
  leftOut("wordwrap"),
  filter("xmlattr", "autospace?", xmlAttributes),
];

function counted(text: string): string {
  allocate(text.length);
  return text;
}

function formatFilter(value: Value, args: readonly Value[], kwargs: Kwargs): Value {
  if (args.length > 0 && kwargs.size > 0) {
    throw new PyError("FilterArgumentError", "can't handle positional and keyword arguments at the same time");
  }
  if (value instanceof Markup) throw new UnsupportedFeature("the filter format on a string marked safe");
  return formatPercent(str(value), kwargs.size > 0 ? Dict.of(kwargs) : new Tuple(args));
}

function indent(value: Value, width?: Value, first?: Value, blank?: Value): Value {
  if (value instanceof Markup) throw new UnsupportedFeature("the filter indent on a string marked safe");
  const space = width === undefined ? "    " : (textOf(width) ?? str(binary("*", " ", width)));
  const text = Array.isArray(value) ? value : binary("+", value, "\n");
  if (typeof text !== "string")
    throw new PyError("AttributeError", `'${typeName(text)}' object has no attribute 'splitlines'`);
  const lines = splitLines(text, false);
  allocate(text.length + lines.length * space.length);
  const indented = lines.map((line, i) => (i > 0 && (line !== "" || flag(blank, false)) ? space + line : line));
  return (flag(first, false) ? space : "") + indented.join("\n");
}

const WORD_START = new RegExp(`([-${SPACE}({[<[]+)`);

function title(text: string): string {
  const words = counted(text).split(WORD_START);
  return words
    .map((word) => {
      const [first = ""] = word;
      return first.toUpperCase() + word.slice(first.length).toLowerCase();
    })
    .join("");
}

function truncate(value: Value, length?: Value, killWords?: Value, end?: Value, leeway?: Value): Value {
  const most = intOf(length, 255n);
  const mark = end === undefined ? "..." : textOf(end);
  if (mark === undefined) throw typeError(`object of type '${typeName(end ?? null)}' is not a text`);
  const slack = (leeway ?? null) === null ? 5n : intOf(leeway, 5n);
  const markLength = BigInt(lengthOf(mark) ?? 0);
  if (most < markLength) throw new PyError("AssertionError", `expected length >= ${markLength}, got ${most}`);
  if (slack < 0n) throw new PyError("AssertionError", `expected leeway >= 0, got ${slack}`);
  const size = lengthOf(value);
  if (size === undefined) throw typeError(`object of type '${typeName(value)}' has no len()`);
  if (BigInt(size) <= most + slack) return value;
  const kept = slice(value, null, most - markLength, null);
  if (flag(killWords, false)) return binary("+", kept, mark);
  if (typeof kept !== "string")
    throw new PyError("AttributeError", `'${typeName(kept)}' object has no attribute 'rsplit'`);
  const at = kept.lastIndexOf(" ");
  return (at < 0 ? kept : kept.slice(0, at)) + mark;
}

function stripTags(text: string): string {
  scan(text.length);
  const plain = text.replace(/<!--[\s\S]*?-->|<(?!!--)[^>]*>/g, "");
  if (plain.includes("<") && />|-->/.test(plain.slice(plain.indexOf("<")))) {
    throw new UnsupportedFeature("the filter striptags on broken tags");
  }
  if (plain.includes("&")) throw new UnsupportedFeature("the filter striptags on HTML entities");
  return splitSpace(plain, -1, false).join(" ");
}

function urlEncode(value: Value): Value {
  if (textOf(value) !== undefined || !isIterable(value)) return quoteUrl(value, false);
  const pairs = value instanceof Dict ? value.entries() : elements(value);
  const parts: string[] = [];
  for (const pair of pairs) {
    const items = Array.isArray(pair) ? pair : [...elements(pair)];
    if (items.length !== 2) throw valueError(`not enough values to unpack (expected 2, got ${items.length})`);
    parts.push(`${quoteUrl(items[0], true)}=${quoteUrl(items[1], true)}`);
  }
  return counted(parts.join("&"));
}

function isIterable(value: Value): boolean {
  try {
    elements(value).next();
    return true;
  } catch {
    return false;
  }
}

function quoteUrl(value: Value, isQuery: boolean): string {
  const text = str(value);
  if (/\p{Cs}/u.test(text)) throw new PyError("UnicodeEncodeError", "surrogates not allowed");
  const quoted = counted(encodeURIComponent(text)).replace(
    /[!'()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return isQuery ? quoted.replaceAll("%20", "+") : quoted.replaceAll("%2F", "/");
}

function xmlAttributes(value: Value, autospace?: Value): Value {
  if (value instanceof Undefined) throw value.fail();
  if (!(value instanceof Dict))
    throw new PyError("AttributeError", `'${typeName(value)}' object has no attribute 'items'`);
  const parts: string[] = [];
  for (const [key, one] of value.entries()) {
    if (one === null || one instanceof Undefined) continue;
    const name = textOf(key);
    if (name === undefined) throw typeError("expected string or bytes-like object");
    if (/[ \t\n\r\f\v/>=]/.test(name)) throw valueError(`Invalid character in attribute name: '${name}'`);
    parts.push(`${(escapeValue(key) as Markup).text}="${(escapeValue(one) as Markup).text}"`);
  }
  const joined = counted(parts.join(" "));
  return joined !== "" && flag(autospace, true) ? ` ${joined}` : joined;
}
