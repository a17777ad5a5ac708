import { describe, expect, it } from "vitest";
import { optionFields } from "../../lib/base/option-fields.js";
import { documentedSchemas } from "../../scripts/lib/documented-schemas.js";
import { withOptionTables } from "../../scripts/lib/option-tables.js";
import { documents, read, tablesOf } from "./markdown.js";

describe("tables of options", () => {
  it("are there for every schema, once", () => {
    const marks = documents.flatMap(tablesOf).map(({ mark }) => /^options: (\w+)$/.exec(mark)?.[1]);
    expect(marks.filter((name) => name !== undefined).sort()).toEqual(Object.keys(documentedSchemas).sort());
  });

  it("are those that npm run docs:tables writes", () => {
    for (const document of documents) {
      expect(read(document), `${document}: run \`npm run docs:tables\``).toBe(
        withOptionTables(read(document), documentedSchemas),
      );
    }
  });

  it("have a description for every option", () => {
    const missing = Object.entries(documentedSchemas).flatMap(([name, schema]) =>
      optionFields(schema).flatMap(({ key, description }) => (description === "" ? [`${name}.${key}`] : [])),
    );
    expect(missing).toEqual([]);
  });
});
