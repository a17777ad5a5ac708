import * as z from "zod";

export type Prompt = string | string[] | number[] | number[][];

const expected = "expected a string, an array of strings, an array of token ids, or an array of arrays of token ids";
const isId = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
const isIds = (value: unknown) => Array.isArray(value) && value.length > 0 && value.every(isId);

/** An array of token ids. It is checked up to the first value that is wrong: there may be millions. */
export const idsSchema = z
  .custom<number[]>((value) => Array.isArray(value) && value.every(isId), { error: "expected an array of token ids" })
  .meta({ type: "array", items: { type: "integer", minimum: 0 } });

/** As {@link idsSchema}: a union of zod's arrays would make a message for each wrong value of each kind. */
export const promptSchema = z
  .custom<Prompt>(
    (value) =>
      typeof value === "string" ||
      isIds(value) ||
      (Array.isArray(value) &&
        value.length > 0 &&
        (value.every((each) => typeof each === "string") || value.every(isIds))),
    { error: expected },
  )
  .meta({
    description: "one text or several, or their token ids",
    anyOf: [
      { type: "string" },
      { type: "array", minItems: 1, items: { type: "string" } },
      { type: "array", minItems: 1, items: { type: "integer", minimum: 0 } },
      {
        type: "array",
        minItems: 1,
        items: { type: "array", minItems: 1, items: { type: "integer", minimum: 0 } },
      },
    ],
  });

/** The prompts of a request, one by one. */
export function promptsOf(prompt: Prompt): (string | number[])[] {
  if (typeof prompt === "string") return [prompt];
  return typeof prompt[0] === "number" ? [prompt as number[]] : (prompt as (string | number[])[]);
}
