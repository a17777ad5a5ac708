import { isDeepStrictEqual } from "node:util";
import type * as z from "zod";
import { ApiError } from "../errors.js";
import type { Unsupported } from "./requests.js";

export interface ParseOptions {
  strict: boolean;
  unsupported?: Record<string, Unsupported>;
}

export interface Parsed<T> {
  request: T;
  /** Fields that nobody knows and that were left out. */
  ignored: string[];
}

/**
 * A request checked by its schema.
 *
 * @throws ApiError invalid_value, unsupported_parameter (a known field that is not honoured), and in strict mode
 * unknown_parameter; `param` is the path of the field
 */
export function parseRequest<S extends z.ZodObject>(
  schema: S,
  body: unknown,
  { strict, unsupported = {} }: ParseOptions,
): Parsed<z.output<S>> {
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw new ApiError("invalid_json", "the body must be a JSON object");
  }
  const ignored: string[] = [];
  for (const [name, value] of Object.entries(body)) {
    if (Object.hasOwn(schema.shape, name)) continue;
    if (!Object.hasOwn(unsupported, name)) ignored.push(name);
    else refuseUnlessNeutral(name, value, unsupported[name]);
  }
  if (strict && ignored.length > 0) {
    const param = ignored[0].slice(0, 128);
    const allowed = Object.keys(schema.shape).sort().join(", ");
    throw new ApiError("unknown_parameter", `unknown parameter ${JSON.stringify(param)}; there are: ${allowed}`, {
      param,
    });
  }
  const parsed = schema.safeParse(body);
  if (!parsed.success) throw invalid(parsed.error);
  return { request: parsed.data, ignored };
}

function refuseUnlessNeutral(name: string, value: unknown, { neutral = [], instead }: Unsupported): void {
  if (value === null || neutral.some((each) => isDeepStrictEqual(each, value))) return;
  const only = neutral.length > 0 ? ` (only ${neutral.map((each) => JSON.stringify(each)).join(" or ")})` : "";
  const hint = instead ? `; use ${instead}` : "";
  throw new ApiError("unsupported_parameter", `${name} is not supported${only}${hint}`, { param: name });
}

/** The first problem, with the place it is at. */
function invalid(error: z.ZodError): ApiError {
  const issue = error.issues[0];
  const keys = issue.code === "unrecognized_keys" ? [issue.keys[0]] : [];
  const param = pathText([...issue.path, ...keys]).slice(0, 256);
  const code = issue.code === "unrecognized_keys" ? "unknown_parameter" : "invalid_value";
  return new ApiError(code, `${param}: ${issue.message}`.slice(0, 1024), { param });
}

/** ["messages", 0, "role"] is `messages[0].role`. */
export function pathText(path: readonly PropertyKey[]): string {
  let text = "";
  for (const key of path) {
    if (typeof key === "number") text += `[${key}]`;
    else text += text === "" ? String(key) : `.${String(key)}`;
  }
  return text;
}
