import { PyError, typeError, UnsupportedFeature, valueError } from "./errors.js";
import { allocate } from "./meter.js";
import { exponentOf, fixedDigits, floatText, intText, intToFloat, significantDigits } from "./numbers.js";
import { itemOf } from "./sequences.js";
import { repr, str, toAscii } from "./text.js";
import { asInt, Dict, Generator, Tuple, textOf, typeName, Undefined, type Value } from "./values.js";

const DIRECTIVE = /%(?:\(((?:[^()]|\([^()]*\))*)\))?([-+ #0]*)(\*|\d+)?(?:\.(\*|\d*))?[hlL]?(.?)/gsu;

/** Maximum number of digits or columns of a directive. */
const MAX_WIDTH = 1 << 20;

/** `format % values`: Python's printf-style formatting. */
export function formatPercent(format: string, values: Value): string {
  const list = values instanceof Tuple ? values.items : [values];
  const mapping = isMapping(values) ? values : undefined;
  let used = 0;
  const next = (): Value => {
    if (used >= list.length) throw typeError("not enough arguments for format string");
    return list[used++];
  };
  const star = (): number => {
    const value = asInt(next());
    if (value === undefined) throw typeError("* wants int");
    return Number(value);
  };
  let usesKeys = false;
  const text = format.replace(
    DIRECTIVE,
    (whole, key: string | undefined, flags, width, precision, type, offset: number) => {
      if (key !== undefined) {
        if (!mapping) throw typeError("format requires a mapping");
        usesKeys = true;
      }
      let value: Value | undefined;
      if (key !== undefined && mapping) {
        value = itemOf(mapping, key);
      }
      let columns = width === "*" ? star() : Number(width ?? 0);
      const left = flags.includes("-") || columns < 0;
      columns = Math.abs(columns);
      const places = precision === undefined ? undefined : Math.max(0, precision === "*" ? star() : Number(precision));
      if (columns > MAX_WIDTH || (places ?? 0) > MAX_WIDTH) {
        throw new UnsupportedFeature(`a format of more than ${MAX_WIDTH} columns or digits`);
      }
      if (type === "") throw valueError("incomplete format");
      if (type === "%") return "%";
      if (!"sradiuxXoceEfFgG".includes(type)) {
        const code = (type.codePointAt(0) ?? 0).toString(16);
        const at = [...format.slice(0, offset)].length + [...whole].length - 1;
        throw valueError(`unsupported format character '${type}' (0x${code}) at index ${at}`);
      }
      const sign = flags.includes("+") ? "+" : flags.includes(" ") ? " " : "";
      const shown = value === undefined ? next() : value;
      const spec = { type, sign, alternate: flags.includes("#"), places };
      allocate(columns);
      if ("sra".includes(type)) return pad(textual(type, shown, places), columns, left);
      if (type === "c") return pad(character(shown), columns, left);
      return padNumber(numeric(spec, shown), columns, left, flags.includes("0"));
    },
  );
  const isSpent = used >= list.length || usesKeys || (mapping !== undefined && !(values instanceof Tuple));
  if (!isSpent) throw typeError("not all arguments converted during string formatting");
  allocate(text.length);
  return text;
}

/** The value if Python accepts it as a mapping here: anything with keys or indices except tuples and strings. */
function isMapping(value: Value): Value | undefined {
  if (value === null || value instanceof Tuple || value instanceof Generator || textOf(value) !== undefined)
    return undefined;
  return Array.isArray(value) || value instanceof Dict || value instanceof Undefined ? value : undefined;
}

function pad(text: string, columns: number, left: boolean): string {
  const missing = columns - [...text].length;
  if (missing <= 0) return text;
  return left ? text + " ".repeat(missing) : " ".repeat(missing) + text;
}

function padNumber([prefix, digits]: [string, string], columns: number, left: boolean, zeros: boolean): string {
  if (zeros && !left) return prefix + digits.padStart(columns - prefix.length, "0");
  return pad(prefix + digits, columns, left);
}

function textual(type: string, value: Value, places: number | undefined): string {
  const text = type === "s" ? str(value) : type === "r" ? repr(value) : toAscii(repr(value));
  return places === undefined ? text : [...text].slice(0, places).join("");
}

function character(value: Value): string {
  const text = textOf(value);
  if (text !== undefined) {
    if ([...text].length !== 1) throw typeError("%c requires int or char");
    return text;
  }
  const code = asInt(value);
  if (code === undefined) throw typeError("%c requires int or char");
  if (code < 0n || code > 0x10ffffn) throw new PyError("OverflowError", "%c arg not in range(0x110000)");
  return String.fromCodePoint(Number(code));
}

interface NumberSpec {
  readonly type: string;
  readonly sign: string;
  readonly alternate: boolean;
  readonly places: number | undefined;
}

/** Sign with prefix, and digits. */
function numeric(spec: NumberSpec, value: Value): [prefix: string, digits: string] {
  const { type, sign, alternate, places } = spec;
  if (value instanceof Undefined) throw value.fail();
  if ("diuxXo".includes(type)) {
    const number = typeof value === "number" && "diu".includes(type) ? truncate(value) : asInt(value);
    if (number === undefined) {
      const needed = "diu".includes(type) ? "a real number" : "an integer";
      throw typeError(`%${type} format: ${needed} is required, not ${typeName(value)}`);
    }
    const size = number < 0n ? -number : number;
    const digits = type === "x" || type === "X" ? size.toString(16) : type === "o" ? size.toString(8) : intText(size);
    const base = alternate && "xXo".includes(type) ? `0${type}` : "";
    const padded = digits.padStart(places ?? 0, "0");
    return [(number < 0n ? "-" : sign) + base, type === "X" ? padded.toUpperCase() : padded];
  }
  const int = asInt(value);
  const number = typeof value === "number" ? value : int === undefined ? undefined : intToFloat(int);
  if (number === undefined) throw typeError(`must be real number, not ${typeName(value)}`);
  const negative = number < 0 || Object.is(number, -0);
  return [negative ? "-" : sign, floatDigits(type, number, places ?? 6, alternate)];
}

/** int() of a float. @throws PyError if it is not finite */
export function truncate(value: number): bigint {
  if (Number.isNaN(value)) throw valueError("cannot convert float NaN to integer");
  if (!Number.isFinite(value)) throw new PyError("OverflowError", "cannot convert float infinity to integer");
  return BigInt(Math.trunc(value));
}

/** |value| by one of e, E, f, F, g, G (or their equivalents in str.format), without a sign. */
export function floatDigits(type: string, value: number, places: number, alternate: boolean): string {
  const upper = type === type.toUpperCase();
  const cased = (text: string) => (upper ? text.toUpperCase() : text);
  if (!Number.isFinite(value)) return cased(floatText(Math.abs(value)));
  const kind = type.toLowerCase();
  if (kind === "f") return fixedDigits(value, places) + (alternate && places === 0 ? "." : "");
  if (kind === "e") {
    const [digits, exponent] = significantDigits(value, places + 1);
    const fraction = places > 0 || alternate ? `.${digits.slice(1)}` : "";
    return cased(`${digits[0]}${fraction}e${exponentOf(exponent)}`);
  }
  const precision = places === 0 ? 1 : places;
  const [digits, exponent] = significantDigits(value, precision);
  const trim = (fraction: string) => (alternate ? fraction : fraction.replace(/0+$/, ""));
  const withPoint = (whole: string, fraction: string) => whole + (fraction !== "" || alternate ? `.${fraction}` : "");
  if (exponent < -4 || exponent >= precision) {
    return cased(`${withPoint(digits[0], trim(digits.slice(1)))}e${exponentOf(exponent)}`);
  }
  if (exponent < 0) return withPoint("0", trim("0".repeat(-exponent - 1) + digits));
  return withPoint(digits.slice(0, exponent + 1), trim(digits.slice(exponent + 1)));
}
