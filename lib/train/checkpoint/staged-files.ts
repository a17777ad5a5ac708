import { createHash, type Hash } from "node:crypto";
import { closeSync, fsyncSync, mkdirSync, openSync, readSync, rmSync } from "node:fs";
import { join } from "node:path";
import { writeAll } from "../../torch/write-all.js";

// Runs in the thread that writes checkpoints: nothing here may load the addon.

/** A file as it was written. */
export interface FileReport {
  name: string;
  bytes: number;
  /** Of what was to be written, not of what a disk made of it. */
  sha256: string;
}

/** Hashed and written at a time: a fraction of a millisecond's work, and cached from the one to the other. */
const PIECE_BYTES = 1 << 17;

interface OpenFile {
  name: string;
  descriptor: number;
  hash: Hash;
  bytes: number;
}

/** The files of one rank on their way into a staging folder, one after the other. */
export class StagedFiles {
  readonly #staging: string;
  readonly #afterPiece: () => void;
  readonly #reports: FileReport[] = [];
  #open: OpenFile | undefined;

  /** @param afterPiece is called again and again while files are written. What it throws ends that */
  constructor(staging: string, afterPiece: () => void = () => {}) {
    this.#staging = staging;
    this.#afterPiece = afterPiece;
    mkdirSync(staging, { recursive: true });
  }

  open(name: string): void {
    const descriptor = openSync(join(this.#staging, name), "w");
    this.#open = { name, descriptor, hash: createHash("sha256"), bytes: 0 };
  }

  /** Appends to the open file. */
  write(bytes: Uint8Array): void {
    const file = this.#file();
    for (let begin = 0; begin < bytes.length; begin += PIECE_BYTES) {
      const piece = bytes.subarray(begin, begin + PIECE_BYTES);
      file.hash.update(piece);
      writeAll(file.descriptor, piece);
      this.#afterPiece();
    }
    file.bytes += bytes.length;
  }

  /** Waits until the open file is on disk, and closes it. */
  close(): void {
    const { name, descriptor, hash, bytes } = this.#file();
    fsyncSync(descriptor);
    this.#release();
    this.#reports.push({ name, bytes, sha256: hash.digest("hex") });
  }

  /** A whole small file. */
  text(name: string, content: string): void {
    this.open(name);
    this.write(Buffer.from(content));
    this.close();
  }

  /** A copy of a file. */
  copy(from: string, name: string): void {
    this.open(name);
    const source = openSync(from, "r");
    try {
      const piece = Buffer.alloc(PIECE_BYTES);
      for (;;) {
        const length = readSync(source, piece);
        if (length === 0) break;
        this.write(piece.subarray(0, length));
      }
    } finally {
      closeSync(source);
    }
    this.close();
  }

  get reports(): FileReport[] {
    return this.#reports;
  }

  /** Closes and removes what this rank wrote. */
  discard(): void {
    const names = this.#reports.map(({ name }) => name);
    if (this.#open) names.push(this.#open.name);
    this.#release();
    for (const name of names) rmSync(join(this.#staging, name), { force: true });
  }

  #file(): OpenFile {
    if (!this.#open) throw new Error("no file is open");
    return this.#open;
  }

  #release(): void {
    if (this.#open) closeSync(this.#open.descriptor);
    this.#open = undefined;
  }
}
