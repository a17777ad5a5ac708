import { createHash, type Hash } from "node:crypto";
import { closeSync, fsyncSync, mkdirSync, openSync, readSync, rmSync } from "node:fs";
import { setPriority } from "node:os";
import { join } from "node:path";
import { writeAll } from "../base/regular-file.js";
import { Transfer } from "../worker/messages.js";
import { serve } from "../worker/serve.js";
import { type CommitRequest, commit, type FileReport } from "./commit.js";
import { Pace } from "./pace.js";

// The thread that hashes and writes checkpoints. It holds no tensors, and processes its messages one after the other.

/**
 * What the thread does. `job` numbers the save that a request belongs to. An error of one request is kept, the rest of the job
 * is skipped, and the request `end` throws it.
 */
export interface WriterHandlers {
  /** @param argument `state` and `rest` are Pace's */
  begin(argument: { job: number; staging: string; state: Int32Array; rest: number }): void;
  text(argument: { job: number; name: string; content: string }): void;
  copy(argument: { job: number; from: string; name: string }): void;
  open(argument: { job: number; name: string; header: Uint8Array }): void;
  /** Appends to the open file, and gives the buffer back. */
  write(argument: { job: number; bytes: Uint8Array<ArrayBuffer> }): Transfer<ArrayBuffer>;
  close(argument: { job: number }): void;
  /** The files of a job, all on disk. */
  end(argument: { job: number }): FileReport[];
  commit(request: CommitRequest): void;
  /** Removes a file or folder. */
  remove(path: string): void;
}

interface Job {
  readonly files: StagedFiles;
  readonly pace: Pace;
  error?: unknown;
}

const jobs = new Map<number, Job>();

// Where there are few processors, the threads that feed a device come first. On Linux this changes the calling thread alone;
// elsewhere it would change the whole process. Not lower: a process waits for its threads when it exits.
if (process.platform === "linux") {
  try {
    setPriority(10);
  } catch {
    // Not permitted here: then all threads have the same priority.
  }
}

/** Does a part of a job, unless an earlier part failed. */
function proceed(id: number, work: (files: StagedFiles) => void): void {
  const job = jobs.get(id);
  if (!job || job.error !== undefined) return;
  try {
    job.pace.start();
    work(job.files);
  } catch (error) {
    job.error = error;
    try {
      job.files.discard();
    } catch {
      // The disk has failed already; the next start removes what stays.
    }
  }
}

serve<WriterHandlers>(() => ({
  begin({ job, staging, state, rest }) {
    const pace = new Pace(state, rest);
    jobs.set(job, { files: new StagedFiles(staging, pace.pause), pace });
    proceed(job, (files) => files.make());
  },
  text: ({ job, name, content }) => proceed(job, (files) => files.text(name, content)),
  copy: ({ job, from, name }) => proceed(job, (files) => files.copy(from, name)),
  open: ({ job, name, header }) =>
    proceed(job, (files) => {
      files.open(name);
      files.write(header);
    }),
  write({ job, bytes }) {
    proceed(job, (files) => files.write(bytes));
    return new Transfer(bytes.buffer, [bytes.buffer]);
  },
  close: ({ job }) => proceed(job, (files) => files.close()),
  end({ job: id }) {
    const job = jobs.get(id);
    jobs.delete(id);
    if (job?.error !== undefined) throw job.error;
    return job?.files.reports ?? [];
  },
  commit,
  remove: (path) => rmSync(path, { recursive: true, force: true, maxRetries: 3 }),
}));

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
  }

  /** Makes the staging folder. */
  make(): void {
    mkdirSync(this.#staging, { recursive: true });
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
