/**
 * Imports the program and never returns: importFile's module hooks are removed when its import settles, and the program
 * may import more at any time. Waiting here does not keep the process alive.
 */
import { pathToFileURL } from "node:url";
import { shownPath } from "../terminal.js";

const [, file] = process.argv;
const program = (await import(pathToFileURL(file).href)) as Record<string, unknown>;
// A file for `diffcoder train` does nothing by itself, which would look like success.
if (program.curriculum !== undefined && process.env.RANK === "0") {
  const shown = shownPath(file);
  process.stderr.write(
    `warning: ${shown} only exports a curriculum. To train it: diffcoder launch ... -- npx diffcoder train ${shown}\n`,
  );
}
await new Promise(() => {});
