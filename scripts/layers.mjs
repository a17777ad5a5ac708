// npm run layers: writes what follows from the table of layers, biome.layers.json and the table in CONTRIBUTING.md.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { contributingWith, lintRules } from "./lib/layers.mjs";
import { projectRoot } from "./lib/paths.mjs";

const contributing = join(projectRoot, "CONTRIBUTING.md");
writeFileSync(join(projectRoot, "biome.layers.json"), lintRules());
writeFileSync(contributing, contributingWith(readFileSync(contributing, "utf8")));
