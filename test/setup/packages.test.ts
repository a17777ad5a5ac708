import { spawnSync } from "node:child_process";
import { cpSync, existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { packagesStaleness } from "../../scripts/lib/packages.mjs";
import { projectRoot } from "../../scripts/lib/paths.mjs";
import { scratchFolder } from "./scratch.js";

const manifest = JSON.parse(readFileSync(join(projectRoot, "package.json"), "utf8"));
const lock = JSON.parse(readFileSync(join(projectRoot, "package-lock.json"), "utf8"));

describe("npm ci --ignore-scripts", () => {
  it("is accepted: package.json and package-lock.json agree", () => {
    const folder = scratchFolder();
    for (const name of ["package.json", "package-lock.json", ".npmrc"])
      cpSync(join(projectRoot, name), join(folder, name));
    const args = ["ci", "--ignore-scripts", "--dry-run", "--offline", "--no-audit", "--no-fund"];
    const run = spawnSync("npm", args, { cwd: folder, encoding: "utf8" });
    expect(run.stderr).not.toMatch(/npm error/);
    expect(run.status).toBe(0);
  });

  it("is enough: this package has no install script, and npm makes none of binding.gyp", () => {
    const scripts = ["preinstall", "install", "postinstall", "prepublish", "preprepare", "prepare", "postprepare"];
    expect(Object.keys(manifest.scripts).filter((name) => scripts.includes(name))).toEqual([]);
    expect(existsSync(join(projectRoot, "binding.gyp"))).toBe(true);
    expect(manifest.gypfile).toBe(false);
    expect(packagesStaleness()).toEqual([]); // what set-up asks for, which passes --ignore-scripts itself
  });

  it("is enough: packages that have an install script work without it", () => {
    const withScript = Object.entries<{ hasInstallScript?: boolean; optional?: boolean }>(lock.packages)
      .filter(([, entry]) => entry.hasInstallScript && !entry.optional)
      .map(([path]) => path.replace(/^.*node_modules\//, ""));
    const require = createRequire(join(projectRoot, "package.json"));
    // What each is for here. A new package with an install script needs an entry, and a proof that it works without.
    const uses: Record<string, () => unknown> = {
      "clang-format-node": () => {
        const run = spawnSync(require("clang-format-node").clangFormatPath, ["--version"], { encoding: "utf8" });
        return run.stdout.includes("clang-format version");
      },
      esbuild: () => {
        const tsx = createRequire(require.resolve("tsx/package.json"));
        return tsx("esbuild").transformSync("const a: number = 1", { loader: "ts" }).code === "const a = 1;\n";
      },
    };
    expect([...new Set(withScript)].sort()).toEqual(Object.keys(uses).sort());
    for (const [name, works] of Object.entries(uses)) expect([name, works()]).toEqual([name, true]);
  });
});
