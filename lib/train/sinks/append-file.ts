import { closeSync, fstatSync, fsyncSync, ftruncateSync, mkdirSync, openSync, readSync, renameSync } from "node:fs";
import { dirname } from "node:path";
import { writeAll } from "../../base/regular-file.js";
import { isSameFile } from "../run-lock.js";

const PIECE_BYTES = 1 << 20;

/**
 * An append-only file. If its folder is removed or renamed, the whole file is rewritten from the open descriptor, so
 * that no events are lost.
 */
export class AppendFile {
  readonly path: string;
  #file: number;
  #end: number;

  /** @param flags of openSync: "a+", or "ax+" if the file must not exist yet */
  constructor(path: string, flags: "a+" | "ax+" = "a+") {
    this.path = path;
    mkdirSync(dirname(path), { recursive: true });
    this.#file = openSync(path, flags);
    this.#end = fstatSync(this.#file).size;
  }

  /** Appends bytes, which readers see immediately. If it throws, nothing was appended. */
  append(bytes: Uint8Array): void {
    if (!isSameFile(this.#file, this.path)) this.#writeAgain();
    try {
      writeAll(this.#file, bytes);
      this.#end += bytes.length;
    } catch (error) {
      ftruncateSync(this.#file, this.#end); // a partial record would corrupt the next one
      throw error;
    }
  }

  /** Waits until everything is on the disk. */
  flush(): void {
    fsyncSync(this.#file);
  }

  close(): void {
    try {
      fsyncSync(this.#file);
    } finally {
      closeSync(this.#file);
    }
  }

  #writeAgain(): void {
    mkdirSync(dirname(this.path), { recursive: true });
    const temporary = `${this.path}.tmp`;
    const copy = openSync(temporary, "w+");
    try {
      const piece = Buffer.alloc(PIECE_BYTES);
      for (let at = 0; at < this.#end; ) {
        const read = readSync(this.#file, piece, 0, Math.min(piece.length, this.#end - at), at);
        if (read === 0) break;
        writeAll(copy, piece.subarray(0, read));
        at += read;
      }
      renameSync(temporary, this.path);
    } catch (error) {
      closeSync(copy);
      throw error;
    }
    closeSync(this.#file);
    this.#file = copy; // its position is at the end
  }
}
