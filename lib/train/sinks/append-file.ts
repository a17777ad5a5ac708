import { closeSync, fstatSync, fsyncSync, ftruncateSync, mkdirSync, openSync, readSync, renameSync } from "node:fs";
import { dirname } from "node:path";
import { writeAll } from "../../base/regular-file.js";
import { isSameFile } from "../run-lock.js";

const PIECE_BYTES = 1 << 20;

/**
 * A file that is only appended to. Where its folder is removed or renamed meanwhile, it is written again as a whole from
 * what the open file still holds: what was told of a run is not lost in silence.
 */
export class AppendFile {
  readonly path: string;
  #file: number;
  #end: number;

  /** @param flags of openSync: "a+", or "ax+" for one that must not be there */
  constructor(path: string, flags: "a+" | "ax+" = "a+") {
    this.path = path;
    mkdirSync(dirname(path), { recursive: true });
    this.#file = openSync(path, flags);
    this.#end = fstatSync(this.#file).size;
  }

  /** Appends bytes, which readers see at once: all of them or, with an error, none. */
  append(bytes: Uint8Array): void {
    if (!isSameFile(this.#file, this.path)) this.#writeAgain();
    try {
      writeAll(this.#file, bytes);
      this.#end += bytes.length;
    } catch (error) {
      ftruncateSync(this.#file, this.#end); // half a record would spoil the next one
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
    this.#file = copy; // it stands at its end
  }
}
