const QUOTE = 0x22;
const BACKSLASH = 0x5c;
/** What follows a key whose value is an integer of up to 20 digits. */
const INTEGER = /\s*:\s*(-?\d{1,20})(?=[\s,}])/y;

/**
 * Puts the digits of `seed` back that a double has lost: a seed has 64 bits, and JSON.parse gives 53.
 *
 * @param value what `text` was parsed to; its `seed` becomes a bigint where it is no safe integer
 */
export function restoreSeed(value: unknown, text: string): void {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return;
  const request = value as { seed?: unknown };
  if (!Number.isInteger(request.seed) || Number.isSafeInteger(request.seed)) return;
  const digits = lastInteger(text, "seed");
  if (digits !== undefined) request.seed = BigInt(digits);
}

/** The last integer that a JSON object has under a key, as it is written; of equal keys JSON.parse takes the last. */
function lastInteger(text: string, key: string): string | undefined {
  let depth = 0;
  let found: string | undefined;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === QUOTE) {
      const from = i++;
      while (text.charCodeAt(i) !== QUOTE) i += text.charCodeAt(i) === BACKSLASH ? 2 : 1;
      if (depth !== 1) continue;
      INTEGER.lastIndex = i + 1;
      const digits = INTEGER.exec(text)?.[1];
      if (digits !== undefined && JSON.parse(text.slice(from, i + 1)) === key) found = digits;
    } else if (code === 0x7b || code === 0x5b) {
      depth++;
    } else if (code === 0x7d || code === 0x5d) {
      depth--;
    }
  }
  return found;
}
