import { parseChatJson } from "../../tokenizer/index.js";

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = /\s*:/y;

/**
 * Puts back what JSON.parse loses of numbers that a request means exactly: the digits of `seed`, which has 64 bits where
 * a double holds 53, and in `chat_template_kwargs` the difference between 1.0 and 1, which a template prints.
 *
 * @param value what `text` was parsed to; its `seed` becomes a bigint where it is not a safe integer
 */
export function restoreNumbers(value: unknown, text: string): void {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return;
  const request = value as { seed?: unknown; chat_template_kwargs?: unknown };
  if (Number.isInteger(request.seed) && !Number.isSafeInteger(request.seed)) {
    const digits = lastValue(text, "seed");
    if (digits !== undefined && /^-?\d{1,20}$/.test(digits)) request.seed = BigInt(digits);
  }
  if (typeof request.chat_template_kwargs === "object" && request.chat_template_kwargs !== null) {
    const written = lastValue(text, "chat_template_kwargs");
    if (written !== undefined) request.chat_template_kwargs = parseChatJson(written);
  }
}

/** The last value that a JSON object has under a key, as it is written; of equal keys JSON.parse takes the last. */
function lastValue(text: string, key: string): string | undefined {
  let depth = 0;
  let start: number | undefined;
  let found: string | undefined;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === QUOTE) {
      const from = i++;
      while (text.charCodeAt(i) !== QUOTE) i += text.charCodeAt(i) === BACKSLASH ? 2 : 1;
      if (depth !== 1 || start !== undefined) continue;
      COLON.lastIndex = i + 1;
      if (COLON.test(text) && JSON.parse(text.slice(from, i + 1)) === key) start = COLON.lastIndex;
    } else if (code === 0x7b || code === 0x5b) {
      depth++;
    } else if (code === 0x7d || code === 0x5d || (code === COMMA && depth === 1)) {
      if (code !== COMMA) depth--;
      if (start === undefined || (code !== COMMA && depth > 0)) continue;
      found = text.slice(start, i).trim();
      start = undefined;
    }
  }
  return found;
}
