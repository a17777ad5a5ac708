import { asIntArgument, intOf } from "./calls.js";
import { PyError, typeError } from "./errors.js";
import type { Filter } from "./filter-helpers.js";
import { filter, flag } from "./filter-helpers.js";
import { floatDigits, truncate } from "./format-percent.js";
import { intToFloat, parseFloatText, parseIntText, roundDivide, roundFloat } from "./numbers.js";
import { binary } from "./operators.js";
import { asInt, textOf, typeName, Undefined, type Value } from "./values.js";

/** Filters on numbers. */
export const NUMBER_FILTERS: [string, Filter][] = [
  filter("abs", "", (value) => {
    const int = asInt(value);
    if (int !== undefined) return int < 0n ? -int : int;
    if (typeof value !== "number") throw typeError(`bad operand type for abs(): '${typeName(value)}'`);
    return Math.abs(value);
  }),
  filter("filesizeformat", "binary?", fileSize),
  filter("float", "default?", (value, otherwise = 0) => toFloat(value) ?? otherwise),
  filter("int", "default? base?", toInt),
  filter("round", "precision? method?", round),
];

/** float(value); undefined if jinja2 would return the default. */
function toFloat(value: Value): number | undefined {
  if (value instanceof Undefined) throw value.fail();
  const text = textOf(value);
  if (text !== undefined) return parseFloatText(text);
  const int = asInt(value);
  if (int !== undefined) return intToFloat(int);
  return typeof value === "number" ? value : undefined;
}

function toInt(value: Value, otherwise: Value = 0n, base: Value = 10n): Value {
  if (value instanceof Undefined) throw value.fail();
  const text = textOf(value);
  if (text !== undefined) {
    const int =
      asInt(base) === undefined
        ? undefined
        : ignoringErrors(["ValueError"], () => parseIntText(text, intOf(base, 10n)));
    if (int !== undefined) return int;
  } else {
    const int = asInt(value);
    if (int !== undefined) return int;
    if (typeof value === "number") {
      const whole = ignoringErrors(["ValueError"], () => truncate(value));
      if (whole !== undefined) return whole;
    }
  }
  const float = ignoringErrors(["OverflowError"], () => toFloat(value));
  return (
    (float === undefined ? undefined : ignoringErrors(["ValueError", "OverflowError"], () => truncate(float))) ??
    otherwise
  );
}

function ignoringErrors<T>(kinds: readonly string[], work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if (error instanceof PyError && kinds.includes(error.kind)) return undefined;
    throw error;
  }
}

function round(value: Value, precision: Value = 0n, method: Value = "common"): Value {
  if (method !== "common" && method !== "ceil" && method !== "floor") {
    throw new PyError("FilterArgumentError", "method must be common, ceil or floor");
  }
  if (method !== "common") {
    const power = binary("**", 10n, precision);
    const scaled = binary("*", value, power);
    const int = asInt(scaled);
    if (int === undefined && typeof scaled !== "number")
      throw typeError(`must be real number, not ${typeName(scaled)}`);
    const rounded = int ?? truncate(method === "ceil" ? Math.ceil(Number(scaled)) : Math.floor(Number(scaled)));
    return binary("/", rounded, power);
  }
  if (value instanceof Undefined) throw typeError("type Undefined doesn't define __round__ method");
  const int = asInt(value);
  if (int === undefined && typeof value !== "number") {
    throw typeError(`type ${typeName(value)} doesn't define __round__ method`);
  }
  if (precision === null) return int ?? roundToInt(value as number);
  const places = asIntArgument(precision);
  if (int === undefined) return roundFloat(value as number, places);
  if (places >= 0n) return int;
  if (places < -5000n) return 0n;
  const power = 10n ** -places;
  return roundDivide(int, power) * power;
}

function roundToInt(value: number): bigint {
  truncate(value);
  return truncate(roundFloat(value, 0n));
}

function fileSize(value: Value, isBinary?: Value): Value {
  const bytes = toFloat(value);
  if (bytes === undefined) {
    const shown = textOf(value);
    if (shown !== undefined) throw new PyError("ValueError", `could not convert string to float: '${shown}'`);
    throw typeError(`float() argument must be a string or a real number, not '${typeName(value)}'`);
  }
  const binaryUnits = flag(isBinary, false);
  const base = binaryUnits ? 1024 : 1000;
  if (bytes === 1) return "1 Byte";
  if (bytes < base) return `${truncate(bytes)} Bytes`;
  const letters = binaryUnits ? "KMGTPEZY" : "kMGTPEZY";
  let at = 0;
  while (at < letters.length - 1 && !(bytes < base ** (at + 2))) at++;
  const size = (base * bytes) / base ** (at + 2);
  const sign = size < 0 ? "-" : "";
  return `${sign}${floatDigits("f", size, 1, false)} ${letters[at]}${binaryUnits ? "iB" : "B"}`;
}
