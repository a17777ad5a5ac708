/**
 * Entry point of `diffcoder launch FILE.ts` in each process: runs FILE, in which `stable-diffcoder` is this library,
 * with the arguments that Node would pass. Errors are reported by Node, with file and line.
 */
import { fileURLToPath } from "node:url";
import { importFile } from "../../train/load-module.js";

process.argv.splice(1, 1); // the program is the first argument, as if Node had been called with it
process.setSourceMapsEnabled(true);
const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
void importFile(fileURLToPath(new URL(`./main-module.${extension}`, import.meta.url)));
