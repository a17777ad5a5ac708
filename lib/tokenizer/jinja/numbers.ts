import { PyError, valueError } from "./errors.js";
import { allocate } from "./meter.js";
import { SPACE } from "./unicode.js";

/** Python's limit on the digits of an int that is converted to text. */
const MAX_DIGITS = 4300;

/** repr() of a float: the shortest digits that round-trip. */
export function floatText(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value < 0 ? "-inf" : "inf";
  const sign = value < 0 || Object.is(value, -0) ? "-" : "";
  const [mantissa, exponentText] = Math.abs(value).toExponential().split("e");
  const digits = mantissa.replace(".", "");
  const exponent = Number(exponentText);
  if (exponent < -4 || exponent >= 16) {
    const fraction = digits.length > 1 ? `.${digits.slice(1)}` : "";
    return `${sign}${digits[0]}${fraction}e${exponentOf(exponent)}`;
  }
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${digits}`;
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  return `${sign}${whole}.${digits.slice(exponent + 1) || "0"}`;
}

/** An exponent as in C: a sign and at least two digits. */
export function exponentOf(exponent: number): string {
  return `${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
}

/** str() of an int. @throws PyError ValueError beyond 4,300 digits, as in Python */
export function intText(value: bigint): string {
  if (bitLength(value) > 14_300) throw tooManyDigits();
  const text = String(value);
  if (text.length - (value < 0n ? 1 : 0) > MAX_DIGITS) throw tooManyDigits();
  return text;
}

function tooManyDigits(): PyError {
  return valueError(`Exceeds the limit (${MAX_DIGITS} digits) for integer string conversion`);
}

export function bitLength(value: bigint): number {
  const hex = (value < 0n ? -value : value).toString(16);
  return hex === "0" ? 0 : (hex.length - 1) * 4 + (32 - Math.clz32(Number.parseInt(hex[0], 16)));
}

/** A finite float as a fraction of integers. */
export function fractionOf(value: number): [numerator: bigint, denominator: bigint] {
  const bits = new DataView(new ArrayBuffer(8));
  bits.setFloat64(0, value);
  const high = bits.getUint32(0);
  const exponent = (high >>> 20) & 0x7ff;
  const fraction = (BigInt(high & 0xfffff) << 32n) | BigInt(bits.getUint32(4));
  const mantissa = exponent === 0 ? fraction : fraction | (1n << 52n);
  const power = (exponent === 0 ? 1 : exponent) - 1075;
  const signed = high >>> 31 ? -mantissa : mantissa;
  return power >= 0 ? [signed << BigInt(power), 1n] : [signed, 1n << BigInt(-power)];
}

/** numerator / denominator (> 0) rounded to an integer, ties to even. */
export function roundDivide(numerator: bigint, denominator: bigint): bigint {
  const quotient = floorDivide(numerator, denominator);
  const twice = 2n * (numerator - quotient * denominator);
  const up = twice > denominator || (twice === denominator && (quotient & 1n) === 1n);
  return up ? quotient + 1n : quotient;
}

export function floorDivide(a: bigint, b: bigint): bigint {
  const quotient = a / b;
  return a % b !== 0n && a < 0n !== b < 0n ? quotient - 1n : quotient;
}

/** |value| with `places` digits after the point, rounded exactly (ties to even), as C's %f. */
export function fixedDigits(value: number, places: number): string {
  allocate(places + 310);
  const [numerator, denominator] = fractionOf(Math.abs(value));
  const scaled = roundDivide(numerator * 10n ** BigInt(places), denominator);
  const digits = String(scaled).padStart(places + 1, "0");
  return places === 0 ? digits : `${digits.slice(0, -places)}.${digits.slice(-places)}`;
}

/** The `count` first significant digits of |value| and its decimal exponent, rounded exactly, as C's %e. */
export function significantDigits(value: number, count: number): [digits: string, exponent: number] {
  allocate(count + 310);
  if (value === 0) return ["0".repeat(count), 0];
  const [numerator, denominator] = fractionOf(Math.abs(value));
  let exponent = Number(Math.abs(value).toExponential().split("e")[1]);
  for (;;) {
    const shift = BigInt(count - 1 - exponent);
    const scaled =
      shift >= 0n
        ? roundDivide(numerator * 10n ** shift, denominator)
        : roundDivide(numerator, denominator * 10n ** -shift);
    const digits = String(scaled);
    if (digits.length === count) return [digits, exponent];
    exponent += digits.length > count ? 1 : -1;
  }
}

/** round(value, places) of a float, places < 0 included. */
export function roundFloat(value: number, places: bigint): number {
  if (!Number.isFinite(value) || value === 0 || places > 323n) return value;
  if (places < -308n) return value < 0 ? -0 : 0;
  const [numerator, denominator] = fractionOf(value);
  const power = 10n ** (places < 0n ? -places : places);
  const scaled =
    places >= 0n ? roundDivide(numerator * power, denominator) : roundDivide(numerator, denominator * power);
  if (scaled === 0n) return value < 0 ? -0 : 0;
  const rounded = Number(`${scaled}e${-places}`);
  if (!Number.isFinite(rounded)) throw new PyError("OverflowError", "rounded value too large to represent");
  return rounded;
}

/** An int as the nearest float. @throws PyError OverflowError */
export function intToFloat(value: bigint): number {
  const float = Number(value);
  if (!Number.isFinite(float)) throw new PyError("OverflowError", "int too large to convert to float");
  return float;
}

/** a / b of ints, rounded once. */
export function divideInts(a: bigint, b: bigint): number {
  if (b === 0n) throw new PyError("ZeroDivisionError", "division by zero");
  const isExact = (n: bigint) => Number.isSafeInteger(Number(n));
  if (isExact(a) && isExact(b)) return Number(a) / Number(b);
  const negative = a < 0n !== b < 0n;
  const [n, d] = [a < 0n ? -a : a, b < 0n ? -b : b];
  // Keep 66 bits of the quotient; the last one is a sticky bit for correct rounding.
  const shift = 66 - (bitLength(n) - bitLength(d));
  const [top, bottom] = shift >= 0 ? [n << BigInt(shift), d] : [n, d << BigInt(-shift)];
  const quotient = top / bottom;
  const sticky = top % bottom === 0n ? quotient : quotient | 1n;
  const float = Number(sticky) * 2 ** -Math.min(shift, 1000) * 2 ** -Math.max(shift - 1000, 0);
  if (!Number.isFinite(float)) throw new PyError("OverflowError", "integer division result too large for a float");
  return negative ? -float : float;
}

/** float(text), undefined if it is not a float literal. */
export function parseFloatText(text: string): number | undefined {
  const plain = plainDigits(text);
  const match =
    /^([+-]?)(?:(inf|infinity)|(nan)|((?:\d+(?:_\d+)*)?\.?(?:\d+(?:_\d+)*)?(?:e[+-]?\d+(?:_\d+)*)?))$/i.exec(plain);
  if (!match) return undefined;
  const [, sign, infinite, nan, digits] = match;
  if (infinite) return sign === "-" ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
  if (nan) return Number.NaN;
  if (!/^\.?\d/.test(digits)) return undefined;
  return Number(sign + digits.replaceAll("_", ""));
}

/** int(text, base), undefined if it is not such a literal. @throws PyError ValueError for an invalid base */
export function parseIntText(text: string, base: bigint): bigint | undefined {
  if (base !== 0n && (base < 2n || base > 36n)) throw valueError("int() base must be >= 2 and <= 36, or 0");
  const match = /^([+-]?)(.*)$/s.exec(plainDigits(text).toLowerCase());
  if (!match) return undefined;
  let digits = match[2];
  let radix = Number(base);
  const prefix = /^0([xob])_?/.exec(digits);
  const named = prefix && { x: 16, o: 8, b: 2 }[prefix[1]];
  if (prefix && named && (radix === 0 || radix === named)) {
    radix = named;
    digits = digits.slice(prefix[0].length);
  } else if (radix === 0) {
    if (/^0/.test(digits) && !/^0(_?0)*$/.test(digits)) return undefined;
    radix = 10;
  }
  if (!/^[0-9a-z]+(_[0-9a-z]+)*$/.test(digits)) return undefined;
  digits = digits.replaceAll("_", "");
  if (digits.length > MAX_DIGITS && ![2, 4, 8, 16, 32].includes(radix)) throw tooManyDigits();
  allocate(digits.length * 8);
  let value = 0n;
  for (const letter of digits) {
    const digit = Number.parseInt(letter, 36);
    if (digit >= radix) return undefined;
    value = value * BigInt(radix) + BigInt(digit);
  }
  return match[1] === "-" ? -value : value;
}

const SPACES = new RegExp(`^[${SPACE}]+|[${SPACE}]+$`, "g");

/** Strips white space and converts the decimal digits of every script to ASCII. */
function plainDigits(text: string): string {
  return text.replace(SPACES, "").replace(/(?![0-9])\p{Nd}/gu, (digit) => {
    // Decimal digits are in runs of ten; only the mathematical ones have adjacent runs.
    const code = digit.codePointAt(0) ?? 0;
    if (code >= 0x1d7ce && code <= 0x1d7ff) return String((code - 0x1d7ce) % 10);
    let value = 0;
    while (value < 9 && /\p{Nd}/u.test(String.fromCodePoint(code - value - 1))) value++;
    return String(value);
  });
}
