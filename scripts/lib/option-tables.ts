// Tables of options in the documents, made from the zod schemas: `npm run docs:tables` after a change.
import type * as z from "zod";
import { type OptionField, optionFields } from "../../lib/base/option-fields.js";

const HEAD = ["Option", "Default", "Meaning"];

/** A document with the table behind each comment `<!-- options: NAME -->` as its schema has it today. */
export function withOptionTables(text: string, schemas: Readonly<Record<string, z.ZodObject>>): string {
  return text.replace(/^(<!-- options: (\w+) -->\n)(?:\|.*\n)*/gm, (table, mark: string, name: string) => {
    const schema = schemas[name];
    return schema ? `${mark}${optionTable(schema)}` : table;
  });
}

/** A Markdown table of an object schema's options, without the column of defaults if none has one. */
export function optionTable(schema: z.ZodObject): string {
  const all = optionFields(schema).map((field) => [`\`${field.key}\``, defaultText(field), meaning(field)]);
  // Where no option has a default, the column would say nothing.
  const isBare = all.every(([, value]) => value === "none");
  const [head, ...rows] = isBare ? [HEAD, ...all].map(([key, , text]) => [key, text]) : [HEAD, ...all];
  const widths = head.map((title, i) => Math.max(...[title, ...rows.map((row) => row[i])].map(({ length }) => length)));
  const line = (cells: readonly string[]) => `| ${cells.map((cell, i) => cell.padEnd(widths[i])).join(" | ")} |\n`;
  return [line(head), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)].join("");
}

/** What holds where an option is left out: a value as JSON, "none" or "required". */
function defaultText({ schema, json, required }: OptionField): string {
  if (required) return "required";
  if (json.default === undefined) return "none";
  // A commit rule is shown as the call that makes it.
  return typeof (defaultOf(schema) as { choose?: unknown }).choose === "function"
    ? "`staticSchedule()`"
    : `\`${JSON.stringify(json.default)}\``;
}

function defaultOf(schema: z.ZodType): unknown {
  const { def } = schema._zod as unknown as { def: { innerType?: z.ZodType; defaultValue?: unknown } };
  return def.defaultValue ?? (def.innerType && defaultOf(def.innerType)) ?? {};
}

/** The description as sentences, with the unit of a number. */
function meaning({ json, description }: OptionField): string {
  const unit = json.unit === undefined ? "" : `${json.unit[0].toUpperCase()}${json.unit.slice(1)}. `;
  const sentence = `${description[0]?.toUpperCase() ?? ""}${description.slice(1)}`;
  return `${unit}${sentence}${sentence.endsWith(".") ? "" : "."}`.replaceAll("|", "\\|");
}
