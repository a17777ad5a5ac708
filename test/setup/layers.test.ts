import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { contributingWith, LAYERS, lintRules } from "../../scripts/lib/layers.mjs";
import { projectRoot } from "../../scripts/lib/paths.mjs";
import { packageCommand } from "../../scripts/lib/vitest.mjs";
import { put, runScript, scratchCheckout } from "./scratch.js";

const below = new Map(LAYERS.map(({ name, imports }) => [name, imports]));
const layers = [...below.keys()];

/** Lints files that a test writes and gives the names of those that break a rule. */
function lint(files: Record<string, string>): { broken: string[]; text: string } {
  const root = scratchCheckout();
  for (const [name, text] of Object.entries(files)) put(join(root, name), text);
  const biome = packageCommand("@biomejs/biome", "biome");
  const run = runScript(root, join("node_modules", biome.split("/node_modules/").at(-1) ?? ""), [
    ...["lint", "--reporter=github", "--max-diagnostics=none", "--error-on-warnings", "lib"],
  ]);
  const broken = Object.keys(files).filter((name) => run.all.includes(`/${name},line=`));
  return { broken, text: run.all };
}

describe("imports between the folders of lib/", () => {
  it("fail lint wherever they point upward or sideways, and nowhere else", () => {
    const files: Record<string, string> = {};
    const expected: string[] = [];
    for (const from of layers) {
      for (const to of layers) {
        if (from === to) continue;
        const name = `lib/${from}/to-${to}.ts`;
        files[name] = `export { thing } from "../${to}/index.js";\n`;
        if (!below.get(from)?.includes(to)) expected.push(name);
      }
    }
    const { broken, text } = lint(files);
    expect(broken.sort()).toEqual(expected.sort());
    expect(text).toContain("noRestrictedImports");
    expect(text).toContain("imports point downward");
  });

  it("fail in every form: type, dynamic, by package name, from a deeper folder", () => {
    const { broken } = lint({
      "lib/nn/type.ts": 'import type { Decoder } from "../model/decoder.js";\nexport type Alias = Decoder;\n',
      "lib/nn/dynamic.ts": 'export const load = () => import("../train/trainer.js");\n',
      "lib/nn/package.ts": 'export { thing } from "stable-diffcoder/train";\n',
      "lib/nn/root.ts": 'export { thing } from "stable-diffcoder";\n',
      "lib/nn/deep/deeper/up.ts": 'export { thing } from "../../../model/decoder.js";\n',
      "lib/nn/deep/down.ts": 'export { thing } from "../../torch/index.js";\nexport { other } from "../module.js";\n',
      "lib/index.ts": 'export { thing } from "./train/index.js";\n',
    });
    expect(broken).toEqual([
      "lib/nn/type.ts",
      "lib/nn/dynamic.ts",
      "lib/nn/package.ts",
      "lib/nn/root.ts",
      "lib/nn/deep/deeper/up.ts",
    ]);
  });

  it("stand in one table, from which the linter's rules and CONTRIBUTING.md are made", () => {
    const text = (name: string) => readFileSync(join(projectRoot, name), "utf8");
    expect(text("biome.layers.json"), "run `npm run layers`").toBe(lintRules());
    expect(text("CONTRIBUTING.md"), "run `npm run layers`").toBe(contributingWith(text("CONTRIBUTING.md")));
  });

  it("are covered for every folder there is", () => {
    const folders = readdirSync(join(projectRoot, "lib"), { withFileTypes: true }).filter((entry) =>
      entry.isDirectory(),
    );
    expect(folders.map((entry) => entry.name).sort()).toEqual([...layers].sort());
  });
});

describe("lint", () => {
  it("catches promises that nobody waits for, any, and values imported as types", () => {
    const { broken, text } = lint({
      "lib/nn/floating.ts": "async function work(): Promise<void> {}\nwork();\nexport { work };\n",
      "lib/nn/any.ts": "export const anything: any = 1;\n",
      "lib/nn/types.ts": 'import { Tensor } from "../torch/index.js";\nexport type Alias = Tensor;\n',
      "lib/nn/fine.ts": "export const one = 1;\n",
    });
    expect(broken).toEqual(["lib/nn/floating.ts", "lib/nn/any.ts", "lib/nn/types.ts"]);
    for (const rule of ["noFloatingPromises", "noExplicitAny", "useImportType"]) expect(text).toContain(rule);
  });
});
