import { existsSync, renameSync, rmSync } from "node:fs";

/**
 * Makes room for a new run. A run that is there is moved aside to `FOLDER.previous`, where one is kept.
 *
 * @returns where the old run is now
 */
export function moveAside(folder: string): string | undefined {
  if (!existsSync(folder)) return undefined;
  const previous = `${folder}.previous`;
  rmSync(previous, { recursive: true, force: true });
  renameSync(folder, previous);
  return previous;
}
