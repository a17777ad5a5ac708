import { PyError, typeError, UnsupportedFeature, valueError } from "./errors.js";
import { floatDigits } from "./format-percent.js";
import { allocate } from "./meter.js";
import { floatText, intText, intToFloat } from "./numbers.js";
import { repr, str, toAscii } from "./text.js";
import { asInt, type Kwargs, lengthOf, Markup, PyObject, typeName, type Value } from "./values.js";

const SPEC = /^(?:([\s\S])?([<>=^]))?([-+ ])?(z)?(#)?(0)?(\d+)?([,_])?(?:\.(\d+))?([bcdeEfFgGnosxX%])?$/u;
/** Maximum number of digits or columns of a field. */
const MAX_WIDTH = 1 << 20;

/**
 * Functions of access.ts with which a field reads attributes and items of its value. They are passed in because
 * access.ts imports the methods of strings.
 */
export interface Access {
  getAttribute(value: Value, name: string): Value;
  getItem(value: Value, key: Value): Value;
}

/** str.format(): fields in braces, with attributes, indices, conversions and format specifications. */
export function formatBraces(format: string, args: readonly Value[], kwargs: Kwargs, access: Access): string {
  const state: State = { automatic: undefined, next: 0, access };
  return formatLevel(format, args, kwargs, state, 2);
}

interface State {
  automatic: boolean | undefined;
  next: number;
  access: Access;
}

function formatLevel(format: string, args: readonly Value[], kwargs: Kwargs, state: State, levels: number): string {
  if (levels < 0) throw valueError("Max string recursion exceeded");
  let text = "";
  let at = 0;
  while (at < format.length) {
    const brace = format.slice(at).search(/[{}]/);
    if (brace < 0) break;
    text += format.slice(at, at + brace);
    at += brace;
    if (format[at] === format[at + 1]) {
      text += format[at];
      at += 2;
      continue;
    }
    if (format[at] === "}") throw valueError("Single '}' encountered in format string");
    const end = closing(format, at);
    text += formatField(format.slice(at + 1, end), args, kwargs, state, levels);
    at = end + 1;
  }
  text += format.slice(at);
  allocate(text.length);
  return text;
}

/** The position of the closing brace of the field that opens at `start`. */
function closing(format: string, start: number): number {
  let depth = 0;
  for (let at = start; at < format.length; at++) {
    if (format[at] === "{") depth++;
    else if (format[at] === "}" && --depth === 0) return at;
  }
  throw valueError(
    start + 1 === format.length ? "Single '{' encountered in format string" : "expected '}' before end of string",
  );
}

function formatField(field: string, args: readonly Value[], kwargs: Kwargs, state: State, levels: number): string {
  const match = /^((?:[^[\]:!]|\[[^\]]*\])*)(?:!([\s\S]?))?(?::([\s\S]*))?$/.exec(field);
  if (!match) throw valueError("expected ':' after conversion specifier");
  const [, name, conversion, rawSpec = ""] = match;
  const value = convert(lookUp(name, args, kwargs, state), conversion);
  const spec = rawSpec.includes("{") ? formatLevel(rawSpec, args, kwargs, state, levels - 1) : rawSpec;
  return formatValue(value, spec);
}

function lookUp(name: string, args: readonly Value[], kwargs: Kwargs, state: State): Value {
  const [first] = /^[^.[]*/.exec(name) ?? [""];
  const isIndex = first === "" || /^\d+$/.test(first);
  let value: Value | undefined;
  if (isIndex) {
    const automatic = first === "";
    if (state.automatic !== undefined && state.automatic !== automatic) {
      throw valueError("cannot switch between manual field specification and automatic field numbering");
    }
    state.automatic = automatic;
    const index = automatic ? state.next++ : Number(first);
    value = args[index];
    if (value === undefined) {
      throw new PyError("IndexError", `Replacement index ${index} out of range for positional args tuple`);
    }
  } else {
    value = kwargs.get(first);
    if (value === undefined) throw new PyError("KeyError", `'${first}'`);
  }
  let rest = name.slice(first.length);
  while (rest !== "") {
    const part = /^(?:\.([^.[]*)|\[([^\]]*)\])/.exec(rest);
    if (!part) throw valueError("Only '.' or '[' may follow ']' in format field specifier");
    const [whole, attribute, key] = part;
    if ((attribute ?? key) === "") throw valueError("Empty attribute in format string");
    if (attribute !== undefined) value = state.access.getAttribute(value, attribute);
    else value = state.access.getItem(value, /^\d+$/.test(key) ? BigInt(key) : key);
    rest = rest.slice(whole.length);
  }
  return value;
}

function convert(value: Value, conversion: string | undefined): Value {
  if (conversion === undefined) return value;
  if (conversion === "s") return str(value);
  if (conversion === "r") return repr(value);
  if (conversion === "a") return toAscii(repr(value));
  throw valueError(`Unknown conversion specifier ${conversion}`);
}

/** format(value, spec) */
function formatValue(value: Value, spec: string): string {
  if (spec === "") return str(value);
  const isObject = value === null || Array.isArray(value) || value instanceof PyObject;
  if (isObject) {
    if (value instanceof Markup)
      throw new UnsupportedFeature("str.format() of a string marked safe with a specification");
    throw typeError(`unsupported format string passed to ${typeName(value)}.__format__`);
  }
  const match = SPEC.exec(spec);
  if (!match) throw valueError("Invalid format specifier");
  const [, fill, align, sign, , alternate, zero, width, grouping, precision, type] = match;
  if (match[4]) throw new UnsupportedFeature("the option z of a format specification");
  const columns = Number(width ?? 0);
  if (columns > MAX_WIDTH || Number(precision ?? 0) > MAX_WIDTH) {
    throw new UnsupportedFeature(`a format of more than ${MAX_WIDTH} columns or digits`);
  }
  allocate(columns);
  const places = precision === undefined ? undefined : Number(precision);
  const filler = fill ?? (zero ? "0" : " ");
  if (typeof value === "string") {
    if (type !== undefined && type !== "s") {
      throw valueError(`Unknown format code '${type}' for object of type 'str'`);
    }
    if (sign || alternate || grouping || align === "=")
      throw valueError("option not allowed in string format specifier");
    const text = places === undefined ? value : [...value].slice(0, places).join("");
    return aligned("", text, columns, filler, align ?? "<");
  }
  // bool has int's __format__, which prints True as 1 if there is a specification.
  const number = typeof value === "boolean" ? BigInt(value) : value;
  return formatNumber(number as bigint | number, {
    sign,
    alternate: !!alternate,
    zero: !!zero,
    columns,
    grouping,
    places,
    type,
    filler,
    align,
  });
}

interface FieldSpec {
  readonly sign: string | undefined;
  readonly alternate: boolean;
  readonly zero: boolean;
  readonly columns: number;
  readonly grouping: string | undefined;
  readonly places: number | undefined;
  readonly type: string | undefined;
  readonly filler: string;
  readonly align: string | undefined;
}

function formatNumber(value: bigint | number, spec: FieldSpec): string {
  const { type, places, alternate, grouping } = spec;
  const isFloatType = type !== undefined && "eEfFgG%".includes(type);
  if (type === "n") throw new UnsupportedFeature("the type n of a format specification");
  if (type === "s" || (typeof value === "number" && type !== undefined && !isFloatType)) {
    throw valueError(`Unknown format code '${type}' for object of type '${typeName(value)}'`);
  }
  let negative: boolean;
  let digits: string;
  let prefix = "";
  if (typeof value === "bigint" && !isFloatType) {
    if (places !== undefined) throw valueError("Precision not allowed in integer format specifier");
    negative = value < 0n;
    const size = negative ? -value : value;
    if (type === "c") {
      if (spec.sign || alternate) throw valueError("option not allowed with integer format specifier 'c'");
      if (value < 0n || value > 0x10ffffn) throw new PyError("OverflowError", "%c arg not in range(0x110000)");
      return aligned("", String.fromCodePoint(Number(value)), spec.columns, spec.filler, spec.align ?? "<");
    }
    const radix = { b: 2, o: 8, x: 16, X: 16 }[type ?? "d"];
    digits = radix ? size.toString(radix) : intText(size);
    if (type === "X") digits = digits.toUpperCase();
    if (alternate && radix) prefix = `0${type}`;
    if (grouping) {
      if (grouping === "," && radix) throw valueError(`Cannot specify ',' with '${type}'.`);
      digits = grouped(digits, grouping, radix ? 4 : 3, spec, prefix.length + (negative || signOf(spec) ? 1 : 0));
    }
  } else {
    const float = typeof value === "bigint" ? intToFloat(asInt(value) ?? 0n) : value;
    negative = float < 0 || Object.is(float, -0);
    digits = floatField(float, type, places, alternate);
    if (grouping) {
      const [, whole, rest] = /^(\d*)([\s\S]*)$/.exec(digits) ?? ["", "", digits];
      digits = grouped(whole, grouping, 3, spec, rest.length + (negative || signOf(spec) ? 1 : 0)) + rest;
    }
  }
  const sign = negative ? "-" : signOf(spec);
  const align = spec.align ?? (spec.zero ? "=" : ">");
  return aligned(sign + prefix, digits, spec.columns, spec.filler, align);
}

function signOf({ sign }: FieldSpec): string {
  return sign === "+" || sign === " " ? sign : "";
}

function floatField(value: number, type: string | undefined, places: number | undefined, alternate: boolean): string {
  if (type === "%")
    return `${Number.isFinite(value) ? floatDigits("f", value * 100, places ?? 6, alternate) : floatText(Math.abs(value))}%`;
  if (type !== undefined) return floatDigits(type, value, places ?? 6, alternate);
  if (places === undefined) return floatText(Math.abs(value));
  // A precision without a type is like g, but with at least one digit after the point, and with the exponent form one
  // digit earlier.
  if (!Number.isFinite(value)) return floatText(Math.abs(value));
  const precision = places === 0 ? 1 : places;
  const exponent = Number(
    Math.abs(value)
      .toExponential(Math.min(100, precision - 1))
      .split("e")[1],
  );
  if (exponent >= -4 && exponent < precision - (exponent >= 0 ? 1 : 0)) {
    const text = floatDigits("g", value, places, alternate);
    return text.includes(".") ? text : `${text}.0`;
  }
  const [, mantissa, rest] = /^([^e]*)(e.*)$/.exec(floatDigits("e", value, precision - 1, false)) ?? ["", "", ""];
  return mantissa.replace(/\.?0+$/, (zeros) => (mantissa.includes(".") ? "" : zeros)) + rest;
}

/** Groups digits; with a zero before the width, the padding zeros are grouped, too. */
function grouped(digits: string, mark: string, size: number, spec: FieldSpec, others: number): string {
  const split = (text: string) => text.replace(new RegExp(`\\B(?=(?:.{${size}})+$)`, "g"), mark);
  let text = digits;
  if (spec.zero && (spec.align === undefined || spec.align === "=")) {
    while (split(text).length < spec.columns - others) text = `0${text}`;
  }
  return split(text);
}

function aligned(prefix: string, text: string, columns: number, filler: string, align: string): string {
  const missing = columns - prefix.length - (lengthOf(text) ?? 0);
  if (missing <= 0) return prefix + text;
  if (align === "<") return prefix + text + filler.repeat(missing);
  if (align === ">") return filler.repeat(missing) + prefix + text;
  if (align === "=") return prefix + filler.repeat(missing) + text;
  const before = Math.floor(missing / 2);
  return filler.repeat(before) + prefix + text + filler.repeat(missing - before);
}
