// Formats numbers for the terminal, with three or four significant digits.

/** A count with three significant digits: 1234567 is "1.23M". Numbers below 1000 have no unit. */
export function compact(value: number): string {
  const units: [number, string][] = [
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ];
  for (const [size, unit] of units) {
    if (Math.abs(value) >= size) return `${trim((value / size).toPrecision(3))}${unit}`;
  }
  return trim(value.toPrecision(3));
}

/** Seconds as "12s", "3m 05s", "2h 10m", "4d 3h". */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const pad = (value: number) => String(value).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${pad(whole % 60)}s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 1440) return `${Math.floor(minutes / 60)}h ${pad(minutes % 60)}m`;
  return `${Math.floor(minutes / 1440)}d ${Math.floor((minutes % 1440) / 60)}h`;
}

/** A loss or a rate with four significant digits, or as "1.2e-5" where it is very small or large. */
export function number(value: number): string {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 0.001 && size < 1e5) return trim(value.toPrecision(4));
  return value.toExponential(1);
}

/** Removes trailing zeros of the fraction. */
function trim(text: string): string {
  if (text.includes("e")) return String(Number(text));
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}
