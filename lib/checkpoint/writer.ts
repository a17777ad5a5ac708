import type { Worker } from "node:worker_threads";
import { startThread } from "../torch/start-thread.js";
import type { CommitRequest, FileReport } from "./commit.js";
import { CANCELLED, HURRIED, signal } from "./pace.js";
import type { WriterMessage, WriterReply } from "./writer-thread.js";

type Message = WriterMessage extends infer M ? (M extends { job: number } ? Omit<M, "job"> : never) : never;

/** A job whose result the thread has not sent yet. */
interface Waiting {
  onBuffer(buffer: ArrayBuffer): void;
  resolve(files: FileReport[]): void;
  reject(error: Error): void;
}

/**
 * The writing of one rank's files in the writer's thread. Messages are processed in their order; nothing waits. After the
 * first that fails the thread removes what it wrote, and {@link end} rejects.
 */
export class WriterJob {
  readonly #state = new Int32Array(new SharedArrayBuffer(4));
  readonly #result: Promise<FileReport[]>;
  /** Sends a message, and the buffers that it gives away: each comes back through `onBuffer`, in order. */
  readonly post: (message: Message, transfer?: ArrayBuffer[]) => void;
  /** Rejects if the thread ends; never resolves. */
  readonly lost: Promise<never>;

  /** @param rest how many times as long as it works the thread rests, until {@link expedite} */
  constructor(staging: string, rest: number, onBuffer: (buffer: ArrayBuffer) => void) {
    const { post, result } = open(onBuffer);
    this.post = post;
    this.#result = result;
    this.lost = result.then(() => new Promise<never>(() => {}));
    this.lost.catch(() => {});
    post({ kind: "begin", staging, state: this.#state, rest });
  }

  /** Marks the end of the job. Resolves when all files are on disk. */
  end(): Promise<FileReport[]> {
    this.post({ kind: "end" });
    return this.#result;
  }

  get isCancelled(): boolean {
    return Atomics.load(this.#state, 0) === CANCELLED;
  }

  /** Makes the thread work without rests. */
  expedite(): void {
    signal(this.#state, HURRIED);
  }

  /** Makes the thread stop at its next piece. */
  cancel(): void {
    signal(this.#state, CANCELLED);
  }
}

/** Commits a staging folder in the thread: see commit.ts. */
export async function commitInThread(request: CommitRequest): Promise<void> {
  const { post, result } = open();
  post({ kind: "commit", request });
  await result;
}

/** Removes a file or folder in the thread. */
export async function removeInThread(path: string): Promise<void> {
  const { post, result } = open();
  post({ kind: "remove", path });
  await result;
}

let thread: Worker | undefined;
let jobs = 0;
const waiting = new Map<number, Waiting>();

/** A number for a job, and the promise of its end. */
function open(onBuffer: (buffer: ArrayBuffer) => void = () => {}) {
  const job = ++jobs;
  const result = new Promise<FileReport[]>((resolve, reject) => {
    waiting.set(job, { onBuffer, resolve, reject });
  });
  result.catch(() => {}); // callers that need the result hold a promise of their own
  thread ??= start();
  // A process must not exit while it waits for a save; without one, the thread does not keep it alive.
  thread.ref();
  const post = (message: Message, transfer?: ArrayBuffer[]) => {
    if (waiting.has(job)) thread?.postMessage({ ...message, job }, transfer);
  };
  return { post, result };
}

function start(): Worker {
  const worker = startThread("writer-thread", import.meta.url);
  worker.on("message", onReply);
  let ended = false;
  const fail = (error: Error) => {
    if (ended) return; // the exit event follows an error, when another thread may have been started already
    ended = true;
    thread = undefined;
    const lost = [...waiting.values()];
    waiting.clear();
    for (const { reject } of lost) reject(error);
  };
  worker.on("error", fail);
  worker.on("exit", (code) => fail(new Error(`the thread that writes checkpoints ended with code ${code}`)));
  return worker;
}

function onReply(reply: WriterReply): void {
  const job = waiting.get(reply.job);
  if (!job) return;
  if (reply.kind === "buffer") {
    job.onBuffer(reply.buffer);
    return;
  }
  waiting.delete(reply.job);
  if (waiting.size === 0) thread?.unref();
  if (reply.kind === "done") job.resolve(reply.files);
  else job.reject(Object.assign(new Error(reply.message), { code: reply.code }));
}
