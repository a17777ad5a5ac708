import { fstatSync, statSync } from "node:fs";

/** Whether an open file is the one that a path leads to: it may have been removed, renamed or replaced since. */
export function isSameFile(descriptor: number, path: string): boolean {
  const there = statSync(path, { throwIfNoEntry: false });
  if (!there) return false;
  const own = fstatSync(descriptor);
  return there.ino === own.ino && there.dev === own.dev;
}
