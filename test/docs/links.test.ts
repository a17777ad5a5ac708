import { existsSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { root } from "../cli/support.js";
import { documents, read, tablesOf } from "./markdown.js";

describe("documents", () => {
  it.each(documents)("%s links to what is there", (document) => {
    const links = [...read(document).matchAll(/\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)/g)].map(([, path]) => path);
    const broken = links.filter((path) => !existsSync(join(root, dirname(document), path)));
    expect(broken).toEqual([]);
  });

  it.each(documents)("%s names files of the checkout that are there", (document) => {
    const named = [
      ...read(document).matchAll(/(?<![\w/.-])((?:lib|native|scripts|assets|test|bench|examples)\/[\w/.-]*\w)/g),
    ];
    // A word in capitals stands for a name.
    const missing = named
      .map(([, path]) => path)
      .filter((path) => !/[A-Z]{4}/.test(path) && !existsSync(join(root, path)));
    expect(missing).toEqual([]);
  });

  it("are all reached from the README, and its table of folders is complete", () => {
    const readme = read("README.md");
    for (const document of documents.slice(1)) expect(readme).toContain(`(${document})`);
    const folders = tablesOf("README.md")
      .flatMap(({ rows }) => rows.map(([name]) => name))
      .join(" ");
    for (const layer of readdirSync(join(root, "lib"), { withFileTypes: true }).filter((entry) =>
      entry.isDirectory(),
    )) {
      expect(folders).toContain(`\`lib/${layer.name}\``);
    }
    for (const name of readdirSync(join(root, "examples")).filter((file) => /\.(ts|yaml)$/.test(file))) {
      expect(readme).toContain(`(examples/${name})`);
    }
  });
});
