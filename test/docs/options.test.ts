import { describe, expect, it } from "vitest";
import type * as z from "zod";
import { dataOptionsSchema, sftDataOptionsSchema } from "../../lib/data/index.js";
import { autoregressiveSchema, blockDiffusionSchema, warmupSchema } from "../../lib/diffusion/index.js";
import { recipeSchema } from "../../lib/train/index.js";
import { runSettingsSchema } from "../../lib/train/run-options.js";
import { stageSettings } from "../../lib/train/stage.js";
import { documentedSchemas } from "../../scripts/lib/documented-schemas.js";
import { withOptionTables } from "../../scripts/lib/option-tables.js";
import { documents, read, tablesOf } from "./markdown.js";

// A table behind <!-- options: NAME --> has a row for each key of the schema, with its default.
const runKeys = Object.keys(runSettingsSchema.shape);
const shapes: Record<string, Record<string, z.ZodType>> = {
  blockDiffusion: blockDiffusionSchema.shape,
  warmup: warmupSchema.shape,
  autoregressive: autoregressiveSchema.shape,
  stage: stageSettings,
  run: runSettingsSchema.shape,
  recipe: Object.fromEntries(Object.entries(recipeSchema.shape).filter(([key]) => !runKeys.includes(key))),
  data: dataOptionsSchema.shape,
  sftData: sftDataOptionsSchema.shape,
};

/** What happens where the key is left out: a default as JSON, "none", or "required". */
function defaultOf(schema: z.ZodType): string {
  const { def } = schema._zod as unknown as { def: { type: string; innerType?: z.ZodType; defaultValue?: unknown } };
  if (def.type === "default" || def.type === "prefault") {
    const { defaultValue } = def;
    // A rule is shown as the call that makes it.
    if (typeof (defaultValue as { choose?: unknown }).choose === "function") return "staticSchedule()";
    return JSON.stringify(defaultValue);
  }
  if (def.type === "optional") return "none";
  return def.innerType ? defaultOf(def.innerType) : "required";
}

const tables = documents.flatMap(tablesOf).filter(({ mark }) => mark.startsWith("options: "));

describe("tables of options", () => {
  it("are there for every schema, once", () => {
    expect(tables.map(({ mark }) => mark.slice("options: ".length)).sort()).toEqual(
      [...Object.keys(shapes), ...Object.keys(documentedSchemas)].sort(),
    );
  });

  it("are those that npm run docs:tables writes", () => {
    for (const document of documents) {
      expect(read(document), `${document}: run \`npm run docs:tables\``).toBe(
        withOptionTables(read(document), documentedSchemas),
      );
    }
  });

  it.each(tables.filter(({ mark }) => mark.slice("options: ".length) in shapes))(
    "agree with the schema: $mark in $document",
    ({ mark, rows }) => {
      const shape = shapes[mark.slice("options: ".length)];
      const written = Object.fromEntries(rows.map(([key, value]) => [key, value]));
      const expected = Object.entries(shape).map(([key, schema]) => {
        const value = defaultOf(schema);
        return [`\`${key}\``, value === "none" || value === "required" ? value : `\`${value}\``];
      });
      expect(written).toEqual(Object.fromEntries(expected));
    },
  );
});
