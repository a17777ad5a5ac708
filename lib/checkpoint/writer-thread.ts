import { createHash, type Hash } from "node:crypto";
import { closeSync, fsyncSync, mkdirSync, openSync, readSync, rmSync } from "node:fs";
import { setPriority } from "node:os";
import { join } from "node:path";
import { parentPort } from "node:worker_threads";
import { writeAll } from "../base/regular-file.js";
import { type CommitRequest, commit, type FileReport } from "./commit.js";
import { Pace } from "./pace.js";

// The thread that hashes and writes checkpoints. It holds no tensors, and processes its messages one after the other.

/** A message to the thread. `job` numbers the save or commit that it belongs to. */
export type WriterMessage = { job: number } & (
  | { kind: "begin"; staging: string; state: Int32Array; rest: number } // for Pace
  | { kind: "text"; name: string; content: string }
  | { kind: "copy"; from: string; name: string }
  | { kind: "open"; name: string; header: Uint8Array }
  | { kind: "data"; bytes: Uint8Array<ArrayBuffer> }
  | { kind: "close" }
  | { kind: "end" }
  | { kind: "commit"; request: CommitRequest }
  | { kind: "remove"; path: string }
);

/** A message of the thread. Buffers come back as soon as their bytes are written. */
export type WriterReply = { job: number } & (
  | { kind: "buffer"; buffer: ArrayBuffer }
  | { kind: "done"; files: FileReport[] }
  | { kind: "failed"; message: string; code?: string }
);

interface Job {
  files?: StagedFiles;
  pace?: Pace;
  error?: unknown;
}

const port = parentPort;
if (!port) throw new Error("writer-thread.ts runs in a worker thread");
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

port.on("message", (message: WriterMessage) => {
  const { job: id } = message;
  let job = jobs.get(id);
  if (!job) {
    job = {};
    jobs.set(id, job);
  }
  try {
    // After a failure the rest of the job is skipped.
    if (job.error === undefined) handle(message, job);
  } catch (error) {
    job.error = error;
    try {
      job.files?.discard();
    } catch {
      // The disk has failed already; the next start removes what stays.
    }
  }
  if (message.kind === "data") {
    const { buffer } = message.bytes;
    reply({ job: id, kind: "buffer", buffer }, [buffer]);
  }
  if (message.kind !== "end" && message.kind !== "commit" && message.kind !== "remove") return;
  jobs.delete(id);
  if (job.error === undefined) reply({ job: id, kind: "done", files: job.files?.reports ?? [] });
  else {
    const { message: text, code } = job.error as NodeJS.ErrnoException;
    reply({ job: id, kind: "failed", message: text ?? String(job.error), code });
  }
});

function reply(message: WriterReply, transfer: ArrayBuffer[] = []): void {
  port?.postMessage(message, transfer);
}

function handle(message: WriterMessage, job: Job): void {
  job.pace?.start();
  switch (message.kind) {
    case "begin":
      job.pace = new Pace(message.state, message.rest);
      job.files = new StagedFiles(message.staging, job.pace.pause);
      break;
    case "text":
      job.files?.text(message.name, message.content);
      break;
    case "copy":
      job.files?.copy(message.from, message.name);
      break;
    case "open":
      job.files?.open(message.name);
      job.files?.write(message.header);
      break;
    case "data":
      job.files?.write(message.bytes);
      break;
    case "close":
      job.files?.close();
      break;
    case "commit":
      commit(message.request);
      break;
    case "remove":
      rmSync(message.path, { recursive: true, force: true, maxRetries: 3 });
  }
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
