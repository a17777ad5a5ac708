import * as z from "zod";
import { valueProblems } from "../base/options.js";
import { PatternError } from "./oniguruma.js";
import { openPattern, type Pattern } from "./pattern.js";

/** A part of tokenizer.json as JSON gives it. */
export type ComponentJson = Readonly<Record<string, unknown>>;

/** A part of tokenizer.json that cannot be taken; `place` is where it stands, such as "pre_tokenizer.pretokenizers.1". */
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

/** A component's settings, checked. Settings without a default in Rust have to be there. */
export function settings<T extends z.ZodRawShape>(json: ComponentJson, place: string, shape: T) {
  const schema = z.object(shape);
  const parsed = schema.safeParse(json);
  if (!parsed.success) throw invalid(place, valueProblems(schema, json).join("\n"));
  return parsed.data;
}

const list = z.array(z.looseObject({ type: z.string() }));

/** The components of a Sequence, each with its place. */
export function sequenceOf(json: ComponentJson, place: string, key: string): [ComponentJson, string][] {
  const parsed = list.safeParse(json[key]);
  if (!parsed.success) throw invalid(`${place}.${key}`, valueProblems(list, json[key]).join("\n"));
  return parsed.data.map((item, i) => [item, `${place}.${key}.${i}`]);
}

/** One character, as Rust's `char`. */
export const character = z.string().refine((text) => [...text].length === 1 && isWellFormed(text), "not one character");

const wellFormed = z.string().refine(isWellFormed, "not a Unicode text: half a surrogate pair");

export const text: z.ZodType<string> = wellFormed;

export const patternJson = z.union([z.strictObject({ String: wellFormed }), z.strictObject({ Regex: wellFormed })]);

/** @throws ComponentError TOKENIZER_UNSUPPORTED for a regular expression that is not taken */
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

/** As Rust reads it: every setting has to be there. */
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
  model: z.custom<JsonObject>(isObject, "an object is needed"),
  added_tokens: z.array(addedToken).default([]),
  normalizer: component,
  pre_tokenizer: component,
  post_processor: component,
  decoder: component,
});

/** The content of tokenizer.json; its parts are checked where they are opened. */
export type TokenizerJson = z.infer<typeof tokenizerJson>;
/** An object read from one of the smaller files. */
export type JsonObject = Record<string, unknown>;

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
