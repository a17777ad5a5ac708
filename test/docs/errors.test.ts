import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { torchErrorCodes } from "../../lib/torch/index.js";
import { root } from "../cli/support.js";
import { read, tablesOf } from "./markdown.js";

const sources = readdirSync(join(root, "lib"), { recursive: true, encoding: "utf8" })
  .filter((name) => name.endsWith(".ts") && !name.includes("generated"))
  .map((name) => readFileSync(join(root, "lib", name), "utf8"));

/** Codes in unions such as `export type DataErrorCode = | "DATA_EMPTY" // ...`, in lib/torch's list, and the one of lib/cli. */
function codesInSources(): string[] {
  const unions = sources.flatMap((text) => [
    ...text.matchAll(/^export type \w+ErrorCode =\n((?: {2}\| "\w+".*\n)+)/gm),
  ]);
  const named = unions.flatMap(([, members]) => [...members.matchAll(/^ {2}\| "(\w+)"/gm)].map(([, code]) => code));
  const single = sources.flatMap((text) => [...text.matchAll(/readonly code = "(\w+)"/g)].map(([, code]) => code));
  return [...torchErrorCodes, ...named, ...single].sort();
}

describe("docs/errors.md", () => {
  it("has every code of the sources, and no other", () => {
    const codes = codesInSources();
    expect(codes.length).toBeGreaterThan(50);
    const written = tablesOf("docs/errors.md").flatMap(({ rows }) => rows.map(([code]) => code.replaceAll("`", "")));
    expect([...written].sort()).toEqual(codes);
  });

  it("has every class", () => {
    const classes = sources.flatMap((text) =>
      [...text.matchAll(/class (\w+) extends \w*Error\b/g)].map(([, name]) => name),
    );
    expect(classes.length).toBeGreaterThan(8);
    const headings =
      read("docs/errors.md")
        .match(/^## .*$/gm)
        ?.join(" ") ?? "";
    for (const name of classes) expect(headings).toContain(name);
  });
});
