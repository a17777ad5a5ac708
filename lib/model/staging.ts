import { randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { messageOf } from "../torch/errors.js";
import { CheckpointError } from "./errors.js";

/**
 * Replaces a folder as a whole: `write` fills a sibling folder, which is flushed to disk and then renamed. A crash, a
 * full disk or an error in `write` leaves what was there before; {@link stagedFolder} finds it even if the process
 * died between the two renames.
 *
 * @throws CheckpointError CHECKPOINT_WRITE with the reason as `cause`
 */
export async function replaceFolder(target: string, write: (folder: string) => void | Promise<void>): Promise<void> {
  const folder = resolve(target);
  const staging = join(dirname(folder), `.${basename(folder)}.${process.pid}-${randomBytes(4).toString("hex")}.tmp`);
  try {
    mkdirSync(staging, { recursive: true });
    removeAbandoned(folder);
    await write(staging);
    for (const file of readdirSync(staging, { recursive: true, withFileTypes: true })) {
      if (file.isFile()) flush(join(file.parentPath, file.name));
    }
    commitFolder(staging, folder);
  } catch (error) {
    rmSync(staging, { recursive: true, force: true });
    throw cannotSave(folder, error);
  }
}

/** The error of a save that failed: CHECKPOINT_WRITE, unless it is a CheckpointError already. */
export function cannotSave(folder: string, cause: unknown): CheckpointError {
  if (cause instanceof CheckpointError) return cause;
  return new CheckpointError("CHECKPOINT_WRITE", `cannot save ${folder}: ${messageOf(cause)}`, { cause });
}

const ABANDONED_AFTER_MS = 6 * 3600 * 1000;

/** Removes what processes that were killed while saving this folder left behind, once nobody can be writing it. */
function removeAbandoned(folder: string): void {
  const prefix = `.${basename(folder)}.`;
  for (const name of readdirSync(dirname(folder))) {
    if (!name.startsWith(prefix) || !/^\d+-[0-9a-f]{8}\.tmp$/.test(name.slice(prefix.length))) continue;
    const path = join(dirname(folder), name);
    const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
    if (age > ABANDONED_AFTER_MS) rmSync(path, { recursive: true, force: true });
  }
}

/**
 * Puts a folder whose files are on disk in the place of another, or of none. From the second rename on it counts; before,
 * the other one does.
 */
export function commitFolder(staging: string, folder: string): void {
  flush(staging);
  const previous = previousFolder(folder);
  if (existsSync(folder)) {
    rmSync(previous, { recursive: true, force: true });
    renameSync(folder, previous);
    try {
      renameSync(staging, folder);
    } catch (error) {
      renameSync(previous, folder);
      throw error;
    }
  } else {
    renameSync(staging, folder);
  }
  flush(dirname(folder));
  rmSync(previous, { recursive: true, force: true });
}

function previousFolder(folder: string): string {
  return join(dirname(folder), `.${basename(folder)}.previous`);
}

/** The folder to read for `target`: itself, or its previous state when a process died while replacing it. */
export function stagedFolder(target: string): string {
  const folder = resolve(target);
  if (existsSync(folder)) return folder;
  const previous = previousFolder(folder);
  return existsSync(previous) ? previous : folder;
}

/** Waits until a file or folder is on disk: without it a rename can get there before the bytes it names. */
export function flush(path: string): void {
  const descriptor = openSync(path, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
