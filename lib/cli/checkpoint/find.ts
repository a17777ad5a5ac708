import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { listCheckpoints } from "../../checkpoint/index.js";
import { CliError } from "../errors.js";
import { shownPath } from "../show.js";

/** The folder with a run's checkpoints: given as the run, or itself. */
export function checkpointsFolder(run: string): string {
  if (!existsSync(run) || !statSync(run).isDirectory()) throw new CliError(`${run} is no folder`);
  const inside = join(run, "checkpoints");
  if (existsSync(inside)) return inside;
  const { readable } = listCheckpoints(run);
  if (readable.length > 0) return run;
  throw new CliError(`${run} is no run: it has no folder checkpoints`);
}

/** Whether a folder looks like one checkpoint, of a run or in Hugging Face layout. */
export function isCheckpoint(folder: string): boolean {
  return ["manifest.json", "trainer.json", "config.json"].some((name) => existsSync(join(folder, name)));
}

/** The folder of one checkpoint. A run's folder is a likely mistake, and then the message lists what is in there. */
export function oneCheckpoint(folder: string): string {
  if (!existsSync(folder) || !statSync(folder).isDirectory()) throw new CliError(`${folder} is no folder`);
  if (isCheckpoint(folder)) return folder;
  const inside = existsSync(join(folder, "checkpoints")) ? join(folder, "checkpoints") : folder;
  const names = listCheckpoints(inside).readable.map(({ path }) => shownPath(path));
  const hint = names.length > 0 ? `; a run, perhaps. Its checkpoints:\n  ${names.join("\n  ")}` : "";
  throw new CliError(`${folder} is no checkpoint${hint}`);
}

/** Bytes of all files in a folder. */
export function sizeOf(folder: string): number {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => sum + statSync(join(entry.parentPath, entry.name)).size, 0);
}
