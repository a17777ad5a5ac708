import { ApiError } from "../api-error.js";
import { restoreNumbers } from "../protocol/exact-numbers.js";

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
