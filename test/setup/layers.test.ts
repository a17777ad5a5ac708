import { readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { projectRoot } from "../../scripts/lib/paths.mjs";
import { packageCommand } from "../../scripts/lib/vitest.mjs";
import { put, runScript, scratchCheckout } from "./scratch.js";

/** Each layer with the folders it may import from. A new folder of lib/ needs its place here and in biome.json. */
const below: Record<string, string[]> = {
  files: [],
  torch: ["files"],
  nn: ["files", "torch"],
  distributed: ["files", "torch", "nn"],
  tokenizer: ["files"],
  model: ["files", "torch", "nn", "distributed", "tokenizer"],
  diffusion: ["files", "torch", "nn", "distributed", "tokenizer", "model"],
  data: ["files", "torch", "nn", "distributed", "tokenizer", "model"],
  parallel: ["files", "torch", "nn", "distributed", "tokenizer", "model", "diffusion", "data"],
  train: ["files", "torch", "nn", "distributed", "tokenizer", "model", "diffusion", "data", "parallel"],
  engine: ["files", "torch", "nn", "distributed", "tokenizer", "model", "diffusion", "data", "parallel"],
  server: [
    ...["files", "torch", "nn", "distributed", "tokenizer", "model", "diffusion", "data", "parallel"],
    ...["train", "engine"],
  ],
  eval: [
    "files",
    "torch",
    "nn",
    "distributed",
    "tokenizer",
    "model",
    "diffusion",
    "data",
    "parallel",
    "train",
    "engine",
  ],
  cli: [
    ...["files", "torch", "nn", "distributed", "tokenizer", "model", "diffusion", "data", "parallel"],
    ...["train", "engine", "server", "eval"],
  ],
};
const layers = Object.keys(below);

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
        if (!below[from]?.includes(to)) expected.push(name);
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

  it("are covered for every folder there is", () => {
    const folders = readdirSync(join(projectRoot, "lib"), { withFileTypes: true }).filter((entry) =>
      entry.isDirectory(),
    );
    expect(layers).toEqual(expect.arrayContaining(folders.map((entry) => entry.name)));
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
