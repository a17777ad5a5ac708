import * as z from "zod";
import { valueProblems } from "../base/options.js";
import { PatternError } from "./oniguruma.js";
import { openPattern, type Pattern } from "./pattern.js";

/** A component of tokenizer.json, as parsed JSON. */
export type ComponentJson = Readonly<Record<string, unknown>>;

/**
 * An invalid or unsupported component of tokenizer.json; `place` is its path, such as "pre_tokenizer.pretokenizers.1".
 */
export class ComponentError extends Error {
  readonly code: "TOKENIZER_FILE_INVALID" | "TOKENIZER_UNSUPPORTED";

  constructor(code: "TOKENIZER_FILE_INVALID" | "TOKENIZER_UNSUPPORTED", place: string, what: string) {
    super(`${place}: ${what}`);
    this.code = code;
  }
}

export function invalid(place: string, what: string): ComponentError {
  return new ComponentError("TOKENIZER_FILE_INVALID", place, what);
}

export function unsupported(place: string, what: string): ComponentError {
  return new ComponentError("TOKENIZER_UNSUPPORTED", place, what);
}

/** Validates a component's settings. Settings without a default in Rust are required. */
export function settings<T extends z.ZodRawShape>(json: ComponentJson, place: string, shape: T) {
  const schema = z.object(shape);
  const parsed = schema.safeParse(json);
  if (!parsed.success) throw invalid(place, valueProblems(schema, json).join("\n"));
  return parsed.data;
}

const list = z.array(z.looseObject({ type: z.string() }));

/** The components of a Sequence, each with its path. */
export function sequenceOf(json: ComponentJson, place: string, key: string): [ComponentJson, string][] {
  const parsed = list.safeParse(json[key]);
  if (!parsed.success) throw invalid(`${place}.${key}`, valueProblems(list, json[key]).join("\n"));
  return parsed.data.map((item, i) => [item, `${place}.${key}.${i}`]);
}

/** One character, like Rust's `char`. */
export const character = z.string().refine((text) => [...text].length === 1 && isWellFormed(text), "not one character");

const wellFormed = z.string().refine(isWellFormed, "not a Unicode text: it has a lone surrogate");

export const text: z.ZodType<string> = wellFormed;

export const patternJson = z.union([z.strictObject({ String: wellFormed }), z.strictObject({ Regex: wellFormed })]);

/** @throws ComponentError TOKENIZER_UNSUPPORTED for an unsupported regular expression */
export function componentPattern(json: z.infer<typeof patternJson>, place: string): Pattern {
  try {
    return openPattern(json);
  } catch (error) {
    if (!(error instanceof PatternError)) throw error;
    throw unsupported(`${place}.pattern`, `this regular expression is not supported: ${error.message}`);
  }
}

export function isWellFormed(value: string): boolean {
  return !/\p{Surrogate}/u.test(value);
}

const tokenContent = { content: wellFormed };

/** As in Rust, every setting is required. */
const addedToken = z.object({
  id: z
    .int()
    .min(0)
    .max(2 ** 32 - 1),
  ...tokenContent,
  single_word: z.boolean(),
  lstrip: z.boolean(),
  rstrip: z.boolean(),
  normalized: z.boolean(),
  special: z.boolean(),
});

const component = z.looseObject({ type: z.string() }).nullable().default(null);

export const tokenizerJson = z.looseObject({
  version: z.literal("1.0").optional(),
  model: z.custom<JsonObject>(isObject, "expected an object"),
  added_tokens: z.array(addedToken).default([]),
  normalizer: component,
  pre_tokenizer: component,
  post_processor: component,
  decoder: component,
});

/** The content of tokenizer.json; its components are validated when they are opened. */
export type TokenizerJson = z.infer<typeof tokenizerJson>;
/** An object read from one of the smaller files. */
export type JsonObject = Record<string, unknown>;

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
