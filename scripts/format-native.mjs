// Formats the C++ and CUDA sources with clang-format; --check only says which files differ.
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { join, relative } from "node:path";
import { projectRoot } from "./lib/paths.mjs";
import { filesBelow } from "./lib/stamp.mjs";

const { clangFormatPath } = createRequire(import.meta.url)("clang-format-node");
const checkOnly = process.argv.includes("--check");
const files = filesBelow(join(projectRoot, "native"), (name) => /\.(cc|cu|h|cuh)$/.test(name));
if (files.length === 0) {
  console.error("There are no files in native/.");
  process.exit(1);
}
const args = checkOnly ? ["--dry-run", "--Werror", "--ferror-limit=1"] : ["-i"];
const run = spawnSync(clangFormatPath, [...args, "--style=file", ...files], { cwd: projectRoot, encoding: "utf8" });
if (run.error || run.signal) {
  console.error(`clang-format does not run: ${run.error?.message ?? run.signal}`);
  process.exit(1);
}
if (run.status !== 0) {
  const wrong = files.filter((file) => run.stderr.includes(`${file}:`)).map((file) => relative(projectRoot, file));
  console.error(wrong.length > 0 ? `Not formatted (npm run format mends it):\n  ${wrong.join("\n  ")}` : run.stderr);
  process.exit(1);
}
console.log(checkOnly ? `Checked ${files.length} native files.` : `Formatted ${files.length} native files.`);
