import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { Tokenizer } from "../../lib/tokenizer/tokenizer.js";

const root = fileURLToPath(new URL("../../../shared/cases/interop/tokenizers", import.meta.url));
const names = existsSync(root) ? readdirSync(root).sort() : [];

describe.skipIf(names.length === 0)(`tokenizers of public reports (${root})`, () => {
  it.each(names)("%s gives Python's ids", (name) => {
    const tokenizer = Tokenizer.fromPretrained(join(root, name));
    const cases = JSON.parse(readFileSync(join(root, name, "expected.json"), "utf8"));
    for (const { text, python_ids } of cases as { text: string; python_ids: number[] }[]) {
      expect(tokenizer.encode(text, { addSpecialTokens: false }), JSON.stringify(text)).toEqual(python_ids);
    }
  });
});
