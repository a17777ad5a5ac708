import { parseChatJson } from "../../tokenizer/index.js";
import { ApiError } from "../errors.js";

/** Levels of arrays and objects in a request. A chat message with parts needs five. */
const MAX_DEPTH = 32;
/** Values in a request, token ids not counted: each wrong one costs a message, and they are checked at one go. */
const MAX_VALUES = 65_536;
const FORBIDDEN_KEYS = new Set(["__proto__", "constructor", "prototype"]);
/** May hold any number of ids; they are checked up to the first that is wrong. */
const ID_FIELDS = new Set(["prompt", "tokens"]);
const utf8 = new TextDecoder("utf-8", { fatal: true });

/**
 * A request's body as JSON.
 *
 * @throws ApiError invalid_json: not UTF-8, not JSON, too deep, too many values, or a key that means something to
 * JavaScript
 */
export function parseBody(body: Buffer): unknown {
  let text: string;
  try {
    text = utf8.decode(body);
  } catch {
    throw new ApiError("invalid_json", "the body is not UTF-8");
  }
  if (text.trim() === "") throw new ApiError("invalid_json", "the body is empty; a JSON object is needed");
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    // The parser's message repeats what was sent: a prompt, perhaps. Only the place is passed on.
    const place = /at position \d+( \(line \d+ column \d+\))?/.exec((cause as Error).message)?.[0];
    throw new ApiError("invalid_json", `the body is not JSON${place ? `: it goes wrong ${place}` : ""}`);
  }
  checkShape(value);
  restoreNumbers(value, text);
  return value;
}

/** Without recursion: the input decides how deep this goes. */
function checkShape(root: unknown): void {
  let level: object[] = typeof root === "object" && root !== null ? [root] : [];
  let values = 0;
  for (let depth = 1; level.length > 0; depth++) {
    if (depth > MAX_DEPTH) throw new ApiError("invalid_json", `the JSON is nested more than ${MAX_DEPTH} levels deep`);
    const next: object[] = [];
    for (const each of level) {
      const keys = Array.isArray(each) ? undefined : Object.keys(each);
      const bad = keys?.find((key) => FORBIDDEN_KEYS.has(key));
      if (bad !== undefined) throw new ApiError("invalid_json", `the key ${JSON.stringify(bad)} is not allowed`);
      values += keys ? keys.length : (each as unknown[]).length;
      if (values > MAX_VALUES) throw new ApiError("invalid_json", `the JSON holds more than ${MAX_VALUES} values`);
      const inner: unknown[] = keys ? keys.map((key) => (each as Record<string, unknown>)[key]) : (each as unknown[]);
      inner.forEach((value, i) => {
        if (typeof value !== "object" || value === null) return;
        const ids = depth === 1 && keys !== undefined && ID_FIELDS.has(keys[i]) && Array.isArray(value);
        if (!ids) next.push(value);
      });
    }
    level = next;
  }
}

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
