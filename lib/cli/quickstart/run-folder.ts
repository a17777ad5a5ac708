import { existsSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { RunLock } from "../../train/run-lock.js";
import { CliError } from "../errors.js";
import { shownPath } from "../show.js";

/**
 * Makes sure that a run may go into a folder: it is not there, empty, or holds an earlier run, as does the place for that one.
 *
 * @throws CliError naming the folder that holds something else, TrainError TRAIN_RUN_LOCKED for a run that is not over
 */
export async function checkRunFolder(folder: string): Promise<void> {
  for (const path of [folder, previousOf(folder)]) {
    if (existsSync(path) && !isRun(path)) {
      throw new CliError(
        `${shownPath(path)} holds no earlier run and is left alone: choose another folder with --output-dir`,
      );
    }
  }
  if (existsSync(folder)) (await RunLock.acquire(folder)).release();
}

/**
 * Makes room for a new run. A run that is there is moved aside to `FOLDER.previous`, where one is kept.
 *
 * @returns where the old run is now
 * @throws as {@link checkRunFolder}
 */
export async function moveAside(folder: string): Promise<string | undefined> {
  await checkRunFolder(folder);
  if (!existsSync(folder) || readdirSync(folder).length === 0) return undefined;
  const previous = previousOf(folder);
  rmSync(previous, { recursive: true, force: true });
  renameSync(folder, previous);
  return previous;
}

function previousOf(folder: string): string {
  return `${folder}.previous`;
}

function isRun(folder: string): boolean {
  if (!statSync(folder).isDirectory()) return false;
  const names = readdirSync(folder);
  return names.length === 0 || names.includes("checkpoints") || names.includes("metrics.jsonl");
}
