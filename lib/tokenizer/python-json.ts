import { parseJsonText } from "../base/json-text.js";

// Python's json module reads and writes NaN, Infinity and -Infinity, which JSON does not have. transformers 5 writes
// them to config.json as {"__float__": "NaN"}, so that strict parsers accept the file, and reads both forms.

const TAG = "__float__";
const SPECIAL: Readonly<Record<string, number>> = {
  NaN: Number.NaN,
  Infinity: Number.POSITIVE_INFINITY,
  "-Infinity": Number.NEGATIVE_INFINITY,
};

/**
 * Parses JSON as Python's json module does.
 *
 * @throws SyntaxError
 */
export function parsePythonJson(text: string): unknown {
  try {
    return tagged(parseJsonText(text), text);
  } catch (error) {
    // Strings are matched as a whole, so that only names outside of strings are replaced.
    const strict = text.replace(/"(?:[^"\\]|\\.)*"|-?\bInfinity\b|\bNaN\b/g, (token) =>
      token.startsWith('"') ? token : `{"${TAG}":"${token}"}`,
    );
    if (strict === text) throw error;
    return tagged(parseJsonText(strict), strict);
  }
}

/** A replacer for JSON.stringify that writes NaN and infinities as transformers does. */
export function tagSpecialNumbers(_key: string, value: unknown): unknown {
  return typeof value === "number" && !Number.isFinite(value) ? { [TAG]: String(value) } : value;
}

function tagged(value: unknown, text: string): unknown {
  return text.includes(TAG) ? JSON.parse(text, revive) : value; // a reviver is slow
}

function revive(_key: string, value: unknown): unknown {
  if (typeof value !== "object" || value === null || !(TAG in value)) return value;
  const name = value[TAG];
  const isTag = Object.keys(value).length === 1 && typeof name === "string" && Object.hasOwn(SPECIAL, name);
  return isTag ? SPECIAL[name] : value;
}
