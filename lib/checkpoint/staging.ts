import { randomBytes } from "node:crypto";
import {
  closeSync,
  copyFileSync,
  type Dirent,
  existsSync,
  fsyncSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { basename, dirname, join, resolve, sep } from "node:path";
import { writeAll } from "../base/regular-file.js";
import { messageOf } from "../torch/errors.js";
import { CheckpointError } from "./errors.js";
import { CONFIG_FILE, isCheckpointFile } from "./layout.js";

/**
 * Replaces the checkpoint in a folder: `write` fills a sibling folder, which is flushed to disk and then replaces the
 * target. After a crash, a full disk or an error in `write` the target is unchanged; {@link stagedFolder} finds a
 * complete checkpoint even if the process died during the replacement. Only a checkpoint's own files in the target are
 * replaced or removed; other files are kept, and files behind links are not touched. If the target is a link to a
 * folder, that folder is replaced.
 *
 * @throws CheckpointError CHECKPOINT_WRITE with the underlying error as `cause`
 */
export async function replaceFolder(target: string, write: (folder: string) => void | Promise<void>): Promise<void> {
  const folder = targetFolder(target);
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

/** Resolves a link to a folder. */
function targetFolder(target: string): string {
  const path = resolve(target);
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (!found) return path;
  const real = statSync(path, { throwIfNoEntry: false });
  if (real?.isDirectory()) return realpathSync(path);
  const what = real === undefined ? "is a broken link" : "is not a folder";
  throw new CheckpointError("CHECKPOINT_WRITE", `cannot save ${path}: it ${what}`);
}

/** The error of a failed save: CHECKPOINT_WRITE, unless it is already a CheckpointError. */
export function cannotSave(folder: string, cause: unknown): CheckpointError {
  if (cause instanceof CheckpointError) return cause;
  return new CheckpointError("CHECKPOINT_WRITE", `cannot save ${folder}: ${messageOf(cause)}`, { cause });
}

const ABANDONED_AFTER_MS = 6 * 3600 * 1000;

/** Removes staging folders of killed processes, if no process can be writing them any more. */
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
 * Moves a flushed folder to its final name, replacing an existing folder. Files of that folder that do not belong to a
 * checkpoint are kept.
 */
export function commitFolder(staging: string, folder: string): void {
  flush(staging);
  rmSync(nextFolder(folder), { recursive: true, force: true });
  if (existsSync(folder) && mustStay(folder)) {
    // This rename is the switch from the old checkpoint to the new one.
    renameSync(staging, nextFolder(folder));
    flush(dirname(folder));
    finishReplacement(folder);
  } else {
    swap(staging, folder);
  }
}

/**
 * Whether a folder cannot be replaced as a whole, because it contains other files or is the working directory of a
 * process.
 */
function mustStay(folder: string): boolean {
  const isWorkedIn = `${process.cwd()}${sep}`.startsWith(`${folder}${sep}`);
  return isWorkedIn || readdirSync(folder, { withFileTypes: true }).some((entry) => !isOwn(entry));
}

function isOwn(entry: Dirent): boolean {
  return !entry.isDirectory() && isCheckpointFile(entry.name);
}

/** Exchanges two folders. The second rename is the switch to the new one. */
function swap(staging: string, folder: string): void {
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

/**
 * Moves the files of a complete new checkpoint beside the folder into the folder. It may be called again after a
 * process died in it. Until the end the folder has no config.json, so that it is not taken for a checkpoint.
 */
export function finishReplacement(folder: string): void {
  const next = nextFolder(folder);
  const names = readdirSync(next);
  const last = names.filter((name) => name === CONFIG_FILE);
  const order = [...names.filter((name) => name !== CONFIG_FILE), ...last];
  const clash = readdirSync(folder, { withFileTypes: true }).find(
    (entry) => entry.isDirectory() && names.includes(entry.name),
  );
  if (clash) {
    rmSync(next, { recursive: true, force: true });
    throw new CheckpointError("CHECKPOINT_WRITE", `cannot save ${folder}: ${clash.name} in it is a folder`);
  }
  rmSync(join(folder, CONFIG_FILE), { force: true });
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (isOwn(entry) && !names.includes(entry.name)) rmSync(join(folder, entry.name));
  }
  for (const name of order) {
    const temporary = join(folder, `.${name}.tmp`);
    rmSync(temporary, { force: true });
    try {
      linkSync(join(next, name), temporary);
    } catch {
      copyFileSync(join(next, name), temporary); // the file system has no hard links
      flush(temporary);
    }
    renameSync(temporary, join(folder, name));
  }
  flush(folder);
  const done = `${next}.tmp`;
  rmSync(done, { recursive: true, force: true });
  renameSync(next, done); // a partly removed folder must not be taken for a checkpoint
  flush(dirname(folder));
  rmSync(done, { recursive: true, force: true });
}

function previousFolder(folder: string): string {
  return join(dirname(folder), `.${basename(folder)}.previous`);
}

/** Name of the complete new checkpoint while its files are moved into the folder. */
function nextFolder(folder: string): string {
  return join(dirname(folder), `.${basename(folder)}.next`);
}

/** The folder to read for `target`: itself, or its next or previous state if a process died while replacing it. */
export function stagedFolder(target: string): string {
  const folder = resolve(target);
  const next = nextFolder(existsSync(folder) ? realpathSync(folder) : folder);
  if (existsSync(next)) return next;
  if (existsSync(folder)) return folder;
  const previous = previousFolder(folder);
  return existsSync(previous) ? previous : folder;
}

/** Flushes a file or folder to disk. Without it a rename could reach the disk before the data. */
export function flush(path: string): void {
  const descriptor = openSync(path, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

/** Writes a file and flushes it to disk. */
export function writeFlushed(path: string, content: string): void {
  const descriptor = openSync(path, "w");
  try {
    writeAll(descriptor, Buffer.from(content));
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
