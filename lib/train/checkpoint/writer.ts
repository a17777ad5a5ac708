import type { Worker } from "node:worker_threads";
import { startThread } from "../../torch/start-thread.js";
import type { CommitRequest } from "./commit.js";
import { CANCELLED, HURRIED, tell } from "./pace.js";
import type { FileReport } from "./staged-files.js";
import type { WriterMessage, WriterReply } from "./writer-thread.js";

type Message = WriterMessage extends infer M ? (M extends { job: number } ? Omit<M, "job"> : never) : never;

/** What waits for an answer of the thread. */
interface Waiting {
  onBuffer(buffer: ArrayBuffer): void;
  resolve(files: FileReport[]): void;
  reject(error: Error): void;
}

/**
 * The writing of one rank's files, which goes on in another thread. Calls are obeyed in their order; nothing waits.
 * The first that fails makes {@link end} reject, and what was written is removed.
 */
export class WriterJob {
  readonly #post: (message: Message, transfer?: ArrayBuffer[]) => void;
  readonly #state = new Int32Array(new SharedArrayBuffer(4));
  readonly #result: Promise<FileReport[]>;
  /** Rejects if the thread ends; resolves never. */
  readonly lost: Promise<never>;

  /** @param rest how many times as long as it works the thread rests, until {@link hurry} */
  constructor(staging: string, rest: number, onBuffer: (buffer: ArrayBuffer) => void) {
    const { post, result } = open(onBuffer);
    this.#post = post;
    this.#result = result;
    this.lost = result.then(() => new Promise<never>(() => {}));
    this.lost.catch(() => {});
    post({ kind: "begin", staging, state: this.#state, rest });
  }

  text(name: string, content: string): void {
    this.#post({ kind: "text", name, content });
  }

  copy(from: string, name: string): void {
    this.#post({ kind: "copy", from, name });
  }

  open(name: string, header: Uint8Array): void {
    this.#post({ kind: "open", name, header });
  }

  /** Appends the first `length` bytes of a buffer, which is away until it comes back through `onBuffer`. */
  data(buffer: ArrayBuffer, length: number): void {
    this.#post({ kind: "data", bytes: new Uint8Array(buffer, 0, length) }, [buffer]);
  }

  close(): void {
    this.#post({ kind: "close" });
  }

  end(): Promise<FileReport[]> {
    this.#post({ kind: "end" });
    return this.#result;
  }

  get isCancelled(): boolean {
    return Atomics.load(this.#state, 0) === CANCELLED;
  }

  /** Makes the thread work without rests. */
  hurry(): void {
    tell(this.#state, HURRIED);
  }

  /** Makes the thread give up at its next piece. */
  cancel(): void {
    tell(this.#state, CANCELLED);
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
  result.catch(() => {}); // whoever cares holds a promise of its own
  thread ??= start();
  // Whoever waits for a save must not find the process at its end; without one the thread keeps nothing alive.
  thread.ref();
  const post = (message: Message, transfer?: ArrayBuffer[]) => {
    if (waiting.has(job)) thread?.postMessage({ ...message, job }, transfer);
  };
  return { post, result };
}

function start(): Worker {
  const worker = startThread("writer-thread", import.meta.url);
  worker.on("message", hear);
  let ended = false;
  const fail = (error: Error) => {
    if (ended) return; // an error is followed by the exit, when another thread may be at work already
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

function hear(reply: WriterReply): void {
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
