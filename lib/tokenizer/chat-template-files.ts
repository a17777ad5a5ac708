import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";

/** The file of the template "default". */
export const MAIN_TEMPLATE_FILE = "chat_template.jinja";
/** The folder beside it with further templates, as NAME.jinja. */
export const CHAT_TEMPLATE_DIR = "additional_chat_templates";

const namedTemplates = z.array(z.object({ name: z.string(), template: z.string() }));

/**
 * The chat templates of a tokenizer folder by name, as transformers finds them: chat_template.jinja ("default") with
 * additional_chat_templates/NAME.jinja; without any of these, tokenizer_config.json's `chat_template`: one text, or a
 * list of names and templates.
 *
 * @param readText reads a file
 * @returns undefined if `chat_template` is neither a text nor such a list
 */
export function readChatTemplates(
  dir: string,
  config: Readonly<Record<string, unknown>>,
  readText: (path: string) => string,
): ReadonlyMap<string, string> | undefined {
  const files = new Map<string, string>();
  const main = join(dir, MAIN_TEMPLATE_FILE);
  if (existsSync(main)) files.set("default", readText(main));
  for (const file of additionalTemplates(dir))
    files.set(file.slice(0, -".jinja".length), readText(join(dir, CHAT_TEMPLATE_DIR, file)));
  if (files.size > 0) return files;
  const given = config.chat_template;
  if (given === undefined || given === null) return files;
  if (typeof given === "string") return new Map([["default", given]]);
  const byName = z.record(z.string(), z.string()).safeParse(given);
  if (byName.success) return new Map(Object.entries(byName.data));
  const listed = namedTemplates.safeParse(given);
  return listed.success ? new Map(listed.data.map(({ name, template }) => [name, template])) : undefined;
}

/** The names of the files in the folder of further templates. */
export function additionalTemplates(dir: string): string[] {
  const folder = join(dir, CHAT_TEMPLATE_DIR);
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => name.endsWith(".jinja"))
    .sort();
}
