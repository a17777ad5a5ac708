import { rmSync } from "node:fs";
import { setPriority } from "node:os";
import { parentPort } from "node:worker_threads";
import { type CommitRequest, commit } from "./commit.js";
import { Pace } from "./pace.js";
import { type FileReport, StagedFiles } from "./staged-files.js";

// The thread that hashes and writes checkpoints. It loads no addon, holds no tensors, and does one thing after the other in
// the order of its messages.

/** What the thread is told. `job` numbers the save or commit that a message belongs to. */
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

/** What the thread says. Buffers come back as soon as their bytes are written. */
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

// Where processors are few, whatever feeds a device comes first. On Linux this changes the thread that calls; elsewhere it
// would be the whole process. No lower: at its end a process waits for its threads.
if (process.platform === "linux") {
  try {
    setPriority(10);
  } catch {
    // Not allowed here: then all are alike.
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
    // After a failure the rest of the job is only counted off.
    if (job.error === undefined) obey(message, job);
  } catch (error) {
    job.error = error;
    try {
      job.files?.discard();
    } catch {
      // The disk is in trouble already; what stays is put away at the next start.
    }
  }
  if (message.kind === "data") {
    const { buffer } = message.bytes;
    answer({ job: id, kind: "buffer", buffer }, [buffer]);
  }
  if (message.kind !== "end" && message.kind !== "commit" && message.kind !== "remove") return;
  jobs.delete(id);
  if (job.error === undefined) answer({ job: id, kind: "done", files: job.files?.reports ?? [] });
  else {
    const { message: text, code } = job.error as NodeJS.ErrnoException;
    answer({ job: id, kind: "failed", message: text ?? String(job.error), code });
  }
});

function answer(reply: WriterReply, transfer: ArrayBuffer[] = []): void {
  port?.postMessage(reply, transfer);
}

function obey(message: WriterMessage, job: Job): void {
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
