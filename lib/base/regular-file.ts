import { isUtf8 } from "node:buffer";
import { closeSync, constants, fstatSync, openSync, readSync, type Stats, statSync, writeSync } from "node:fs";

/** Why a file that a user named is not read. */
export type FileProblem =
  | "missing"
  | "not a file" // a folder, a pipe, a socket, a device
  | "unreadable" // no permission, a loop of links, a fault of the disk
  | "too large"
  | "not UTF-8";

/** A file that cannot be used. Each layer gives it the code of its own errors; the message names neither path nor code. */
export class FileError extends Error {
  readonly problem: FileProblem;

  constructor(problem: FileProblem, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "FileError";
    this.problem = problem;
  }
}

/** Bytes that a file is read into memory up to, unless told otherwise. V8 holds no string of twice the size. */
export const MAX_FILE_BYTES = 256 * 2 ** 20;

const CHUNK = 1 << 20;

/**
 * Opens a file for reading, links followed. Anything that is not a regular file is refused at once: a pipe without a writer
 * would never answer, and a device may never end.
 *
 * @returns the descriptor, which the caller closes, and what the file was when it was opened
 * @throws FileError
 */
export function openRegularFile(path: string): { descriptor: number; stats: Stats } {
  let descriptor: number;
  try {
    requireRegular(statSync(path)); // opening some devices does something
    // What stands at the path may have changed since. Without O_NONBLOCK, opening a pipe waits for its other end.
    descriptor = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0) | (constants.O_NOCTTY ?? 0));
  } catch (cause) {
    throw cause instanceof FileError ? cause : fileErrorOf(cause);
  }
  try {
    const stats = fstatSync(descriptor);
    requireRegular(stats);
    return { descriptor, stats };
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
}

/**
 * The content of a regular file.
 *
 * @param maxBytes a longer file is refused before more of it is read
 * @throws FileError
 */
export function readRegularFile(path: string, maxBytes: number = MAX_FILE_BYTES): Buffer {
  const { descriptor, stats } = openRegularFile(path);
  try {
    if (stats.size > maxBytes) throw tooLarge(stats.size, maxBytes);
    const parts: Buffer[] = [];
    let length = 0;
    // Until the end and not up to the size: a file may grow meanwhile, and those in /proc say they are empty.
    for (let room = Math.max(stats.size + 1, 4096); ; room = CHUNK) {
      const part = Buffer.allocUnsafe(Math.min(room, CHUNK));
      const count = readSync(descriptor, part);
      if (count === 0) return parts.length === 1 ? parts[0] : Buffer.concat(parts, length);
      parts.push(part.subarray(0, count));
      length += count;
      if (length > maxBytes) throw tooLarge(length, maxBytes);
    }
  } catch (cause) {
    throw cause instanceof FileError ? cause : fileErrorOf(cause);
  } finally {
    closeSync(descriptor);
  }
}

/**
 * The content of a regular file that holds text in UTF-8. A byte order mark stays.
 *
 * @throws FileError, saying of UTF-16 that it is that, and where other bytes are no UTF-8
 */
export function readTextFile(path: string, maxBytes?: number): string {
  return decodeUtf8(readRegularFile(path, maxBytes));
}

/**
 * Bytes as text, a byte order mark left in.
 *
 * @throws FileError "not UTF-8"
 */
export function decodeUtf8(bytes: Uint8Array): string {
  const problem = utf8Problem(bytes);
  if (problem !== undefined) throw new FileError("not UTF-8", problem);
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8");
}

/** What is wrong with bytes that should be text in UTF-8, undefined if nothing is. */
export function utf8Problem(bytes: Uint8Array): string | undefined {
  const utf16 = utf16Name(bytes);
  if (utf16 !== undefined) return `it is ${utf16} text, expected UTF-8`;
  return isUtf8(bytes) ? undefined : `it is not UTF-8 text: byte ${firstInvalid(bytes)} is part of no character`;
}

/** "UTF-16" by its byte order mark, which is what Windows writes. */
function utf16Name(bytes: Uint8Array): string | undefined {
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return "UTF-16 (little-endian)";
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return "UTF-16 (big-endian)";
  return undefined;
}

/** Where the first byte stands that ends no valid text. */
function firstInvalid(bytes: Uint8Array): number {
  const isValid = (length: number) => {
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, length), { stream: true });
      return true;
    } catch {
      return false;
    }
  };
  let [valid, invalid] = [0, bytes.length + 1]; // lengths; one too many stands for a text that is cut within a character
  while (invalid - valid > 1) {
    const middle = (valid + invalid) >>> 1;
    if (middle <= bytes.length && isValid(middle)) valid = middle;
    else invalid = middle;
  }
  while (!isUtf8(bytes.subarray(0, valid))) valid--; // to where its character begins
  return valid;
}

function requireRegular(stats: Stats): void {
  if (stats.isFile()) return;
  throw new FileError("not a file", `it is ${kindOf(stats)}, expected a regular file`);
}

/** What a path leads to, with an article: "a folder", "a named pipe". */
export function kindOf(stats: Stats): string {
  if (stats.isFile()) return "a regular file";
  if (stats.isDirectory()) return "a folder";
  if (stats.isFIFO()) return "a pipe";
  if (stats.isSocket()) return "a socket";
  if (stats.isCharacterDevice() || stats.isBlockDevice()) return "a device";
  return "no file";
}

function tooLarge(bytes: number, maxBytes: number): FileError {
  const mebibytes = (count: number) => `${(count / 2 ** 20).toFixed(1)} MiB`;
  return new FileError("too large", `it has ${mebibytes(bytes)}, the limit is ${mebibytes(maxBytes)}`);
}

const MESSAGES: Record<string, string> = {
  ENOENT: "there is no such file",
  ENOTDIR: "a part of its path is no folder",
  EACCES: "permission denied",
  ELOOP: "its links lead round in a circle",
  EISDIR: "it is a folder, expected a regular file",
  ENXIO: "it is a socket or a device, expected a regular file",
};

function fileErrorOf(cause: unknown): FileError {
  const { code = "", message } = cause as NodeJS.ErrnoException;
  const problem = code === "ENOENT" || code === "ENOTDIR" ? "missing" : "unreadable";
  return new FileError(problem, MESSAGES[code] ?? message, { cause });
}

/** Writes bytes at the end of an open file: the system may take fewer than it is given at a time. */
export function writeAll(descriptor: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(descriptor, bytes, done);
}
