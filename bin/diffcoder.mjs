#!/usr/bin/env node
// The command `diffcoder`. Set-up and doctor work before anything is built; everything else is dist/cli/main.js.
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const at = (path) => new URL(`../${path}`, import.meta.url);
const isThere = (path) => existsSync(fileURLToPath(at(path)));
const [command, ...rest] = process.argv.slice(2);
const inCheckout = isThere("lib");
const setupCommand = inCheckout ? "npm run setup" : "npx diffcoder setup";

if (command === "setup") {
  process.argv.splice(2, Number.POSITIVE_INFINITY, ...rest);
  await import(at("scripts/setup.mjs").href);
} else if (command === "doctor" && !isThere("dist/cli/main.js")) {
  process.argv.splice(2, Number.POSITIVE_INFINITY, ...rest);
  await import(at("scripts/doctor.mjs").href);
} else if (!isThere("dist/cli/main.js")) {
  console.error(`diffcoder is not compiled yet. Run: ${setupCommand}`);
  process.exitCode = 1;
} else if (!isThere("build/Release/diffcoder.node") && needsAddon(command)) {
  console.error(
    `The native addon is not built yet. Run: ${setupCommand}\n(npx diffcoder doctor says what this machine lacks.)`,
  );
  process.exitCode = 1;
} else {
  await import(at("dist/cli/main.js").href);
}

/** Help, version and doctor must answer on a machine where nothing is built; what only reads logs needs no addon. */
function needsAddon(name) {
  if (process.env.DIFFCODER_ADDON || name === undefined) return false;
  if (["help", "doctor", "watch", "report"].includes(name)) return false;
  return !process.argv.slice(2).some((arg) => ["--help", "-h", "--version", "-V"].includes(arg));
}
