// npm run docs:tables: writes the tables of options in docs/ anew, from the schemas.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { documentedSchemas } from "./lib/documented-schemas.js";
import { withOptionTables } from "./lib/option-tables.js";
import { projectRoot } from "./lib/paths.mjs";

const folder = join(projectRoot, "docs");
for (const name of readdirSync(folder)) {
  if (!name.endsWith(".md")) continue;
  const path = join(folder, name);
  const text = readFileSync(path, "utf8");
  const today = withOptionTables(text, documentedSchemas);
  if (today !== text) writeFileSync(path, today);
}
