import { threadLink, WorkerClient } from "../worker/index.js";
import type { CommitRequest, FileReport } from "./commit.js";
import { CANCELLED, HURRIED, signal } from "./pace.js";
import type { WriterHandlers } from "./writer-thread.js";

type Client = WorkerClient<WriterHandlers>;

/** The parts of a job: each takes its place behind those before it. */
type Part = "text" | "copy" | "open" | "close";
type PartArgument<P extends Part> = Omit<Parameters<WriterHandlers[P]>[0], "job">;

/**
 * The writing of one rank's files in the writer's thread. Requests are processed in their order; nothing waits. After the
 * first that fails the thread removes what it wrote, and {@link end} rejects.
 */
export class WriterJob {
  readonly #client: Client;
  readonly #job = ++jobs;
  readonly #state = new Int32Array(new SharedArrayBuffer(4));
  #result: Promise<FileReport[]> | undefined;

  /** @param rest how many times as long as it works the thread rests, until {@link expedite} */
  constructor(staging: string, rest: number) {
    this.#client = writerThread();
    this.#client.call("begin", { job: this.#job, staging, state: this.#state, rest }).catch(() => {}); // end() rejects
  }

  /** Has the thread write a text, copy a file, open a file of tensors, or close it. */
  post<P extends Part>(part: P, argument: PartArgument<P>): void {
    this.#client.call(part, { ...argument, job: this.#job } as never).catch(() => {}); // end() rejects
  }

  /**
   * Appends bytes to the open file, and gives their buffer away.
   *
   * @returns the buffer, once its bytes are written or the job has failed; rejects if the thread ends
   */
  write(bytes: Uint8Array<ArrayBuffer>): Promise<ArrayBuffer> {
    return this.#client.call("write", { job: this.#job, bytes }, [bytes.buffer]);
  }

  /** Ends the job. Resolves when all files are on disk. */
  end(): Promise<FileReport[]> {
    this.#result ??= this.#client.call("end", { job: this.#job });
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
  await writerThread().call("commit", request);
}

/** Removes a file or folder in the thread. */
export async function removeInThread(path: string): Promise<void> {
  await writerThread().call("remove", path);
}

let thread: Client | undefined;
let jobs = 0;

/** The thread of this process. The process does not exit while the thread has something to do. */
function writerThread(): Client {
  if (thread && !thread.failure) return thread;
  thread = new WorkerClient(threadLink("writer-thread", import.meta.url), {
    keepsProcess: true,
    revive: ({ message, code }) => Object.assign(new Error(message), { code }),
  });
  return thread;
}
