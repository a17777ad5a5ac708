import { isUtf8 } from "node:buffer";
import { closeSync, constants, fstatSync, openSync, readSync, type Stats, statSync, writeSync } from "node:fs";

/** Why a file cannot be read. */
export type FileProblem =
  | "missing"
  | "not a file" // a folder, a pipe, a socket, a device
  | "unreadable" // no permission, cyclic links, or a disk error
  | "too large"
  | "not UTF-8";

/** A file that cannot be read. Each layer converts it to its own error; the message contains neither path nor code. */
export class FileError extends Error {
  readonly problem: FileProblem;

  constructor(problem: FileProblem, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "FileError";
    this.problem = problem;
  }
}

/** Default maximum size of a file that is read into memory. Strings of V8 are limited to less than twice this size. */
export const MAX_FILE_BYTES = 256 * 2 ** 20;

const CHUNK = 1 << 20;

/**
 * Opens a file for reading and follows links. Anything but a regular file is rejected immediately: a pipe without a
 * writer would block, and a device may be endless.
 *
 * @returns the descriptor, which the caller closes, and the stats of the opened file
 * @throws FileError
 */
export function openRegularFile(path: string): { descriptor: number; stats: Stats } {
  let descriptor: number;
  try {
    requireRegular(statSync(path)); // opening some devices has side effects
    // The file at the path may have changed since. Without O_NONBLOCK, opening a pipe waits for its other end.
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
 * @param maxBytes larger files are rejected
 * @throws FileError
 */
export function readRegularFile(path: string, maxBytes: number = MAX_FILE_BYTES): Buffer {
  const { descriptor, stats } = openRegularFile(path);
  try {
    if (stats.size > maxBytes) throw tooLarge(stats.size, maxBytes);
    const parts: Buffer[] = [];
    let length = 0;
    // Reads to the end, not up to the size: a file may grow meanwhile, and files in /proc have size 0.
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
 * The content of a regular file as UTF-8 text. A byte order mark is kept.
 *
 * @throws FileError, naming UTF-16 as such, or the position of the first invalid byte
 */
export function readTextFile(path: string, maxBytes?: number): string {
  return decodeUtf8(readRegularFile(path, maxBytes));
}

/**
 * Decodes bytes as UTF-8 and keeps a byte order mark.
 *
 * @throws FileError "not UTF-8"
 */
export function decodeUtf8(bytes: Uint8Array): string {
  const problem = utf8Problem(bytes);
  if (problem !== undefined) throw new FileError("not UTF-8", problem);
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8");
}

/** Why bytes are not valid UTF-8 text; undefined if they are. */
export function utf8Problem(bytes: Uint8Array): string | undefined {
  const utf16 = utf16Name(bytes);
  if (utf16 !== undefined) return `it is ${utf16} text, expected UTF-8`;
  return isUtf8(bytes) ? undefined : `it is not UTF-8 text: byte ${firstInvalid(bytes)} is invalid`;
}

/** The name of UTF-16, detected by its byte order mark, which Windows writes. */
function utf16Name(bytes: Uint8Array): string | undefined {
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return "UTF-16 (little-endian)";
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return "UTF-16 (big-endian)";
  return undefined;
}

/** Position of the first invalid byte. */
function firstInvalid(bytes: Uint8Array): number {
  const isValid = (length: number) => {
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, length), { stream: true });
      return true;
    } catch {
      return false;
    }
  };
  let [valid, invalid] = [0, bytes.length + 1]; // lengths; one too many covers a text that ends within a character
  while (invalid - valid > 1) {
    const middle = (valid + invalid) >>> 1;
    if (middle <= bytes.length && isValid(middle)) valid = middle;
    else invalid = middle;
  }
  while (!isUtf8(bytes.subarray(0, valid))) valid--; // back to the start of its character
  return valid;
}

function requireRegular(stats: Stats): void {
  if (stats.isFile()) return;
  throw new FileError("not a file", `it is ${kindOf(stats)}, expected a regular file`);
}

/** The kind of a file, with an article: "a folder", "a pipe". */
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
  ENOENT: "the file does not exist",
  ENOTDIR: "a component of its path is not a folder",
  EACCES: "permission denied",
  ELOOP: "its symbolic links form a cycle",
  EISDIR: "it is a folder, expected a regular file",
  ENXIO: "it is a socket or a device, expected a regular file",
};

function fileErrorOf(cause: unknown): FileError {
  const { code = "", message } = cause as NodeJS.ErrnoException;
  const problem = code === "ENOENT" || code === "ENOTDIR" ? "missing" : "unreadable";
  return new FileError(problem, MESSAGES[code] ?? message, { cause });
}

/** Writes all bytes to an open file: a single write may be partial. */
export function writeAll(descriptor: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(descriptor, bytes, done);
}
