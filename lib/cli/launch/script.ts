/**
 * What `diffcoder launch FILE.ts` runs in each process: FILE with `stable-diffcoder` as this very library, and with the
 * arguments that Node would give it. Its errors are left to Node, which shows file and line.
 */
import { fileURLToPath } from "node:url";
import { importFile } from "../../train/load-module.js";

process.argv.splice(1, 1); // the program comes first, as if Node had been called with it
process.setSourceMapsEnabled(true);
const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
void importFile(fileURLToPath(new URL(`./main-module.${extension}`, import.meta.url)));
