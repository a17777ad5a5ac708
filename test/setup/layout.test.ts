import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { projectRoot } from "../../scripts/lib/paths.mjs";
import { importsOf } from "./imports.js";

/** Folders of lib/ that are held to the rules below. */
const FOLDERS = [
  ...[
    "base",
    "worker",
    "torch",
    "nn",
    "distributed",
    "tokenizer",
    "model",
    "checkpoint",
    "diffusion",
    "data",
    "parallel",
  ],
  ...["train", "engine", "server", "cli"],
];

const LEAST_LINES = 40;

/** Files that may be shorter: a layer's entry point, the one place for its error codes, and one architecture each. */
const ENTRIES = /\/(index|errors|tokenizer-error)\.ts$|\/architectures\/\w+\.ts$/;
/** Other shorter files, and why they are files. */
const SHORT: Readonly<Record<string, string>> = {
  "lib/base/coded-error.ts": "the class of every layer's errors: it imports nothing",
  "lib/torch/package-version.ts": "read before anything else is loaded",
  "lib/tokenizer/jinja/filters.ts": "the table of filters, which some of them use",
  "lib/data/prefetch-thread.ts": "a thread starts it",
  "lib/engine/worker.ts": "a thread or process starts it",
  "lib/cli/launch/main-module.ts": "a process of a launched program starts it",
  "lib/cli/launch/script.ts": "a process of a launched program starts it",
};

const filesOf = (folder: string): string[] =>
  readdirSync(join(projectRoot, "lib", folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts") && !name.endsWith(".d.ts") && !name.startsWith("generated/"))
    .map((name) => `lib/${folder}/${name}`);

/** Circles of imports among files, each as the files of one strongly connected component. */
function circles(files: readonly string[]): string[][] {
  const isGenerated = (file: string) => file.includes("/generated/");
  const imports = new Map(
    files.map((file) => [file, importsOf(file, { types: true }).filter((other) => !isGenerated(other))]),
  );
  const reachable = (from: string): Set<string> => {
    const seen = new Set<string>();
    const open = [...(imports.get(from) ?? [])];
    for (let file = open.pop(); file !== undefined; file = open.pop()) {
      if (seen.has(file)) continue;
      seen.add(file);
      open.push(...(imports.get(file) ?? []));
    }
    return seen;
  };
  const from = new Map(files.map((file) => [file, reachable(file)]));
  const found = new Map<string, string[]>();
  for (const file of files) {
    if (!from.get(file)?.has(file)) continue;
    const circle = files.filter((other) => from.get(file)?.has(other) && from.get(other)?.has(file)).sort();
    found.set(circle[0], circle);
  }
  return [...found.values()];
}

describe.each(FOLDERS)("lib/%s", (folder) => {
  it("has no circle of imports, those of types included", () => {
    expect(circles(filesOf(folder))).toEqual([]);
  });

  it(`has no file of fewer than ${LEAST_LINES} lines without a reason`, () => {
    const lines = (file: string) => readFileSync(join(projectRoot, file), "utf8").split("\n").length - 1;
    const short = filesOf(folder).filter((file) => !ENTRIES.test(file) && lines(file) < LEAST_LINES);
    expect(short.sort()).toEqual(
      Object.keys(SHORT)
        .filter((file) => file.startsWith(`lib/${folder}/`))
        .sort(),
    );
  });
});
