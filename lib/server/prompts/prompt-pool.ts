import { TokenizerError, type TokenizerErrorCode } from "../../tokenizer/index.js";
import { type ResultOf, threadLink, WorkerClient, WorkerEnded } from "../../worker/index.js";
import { ApiError } from "../errors.js";
import type { PromptHandlers, PromptTokenizer } from "./prompt-thread.js";

/** Threads at most. The first is always there, others come while all before them are busy. */
const MAX_THREADS = 4;
/** Tasks that may wait. */
const MAX_WAITING = 1024;
/** Milliseconds for which a thread must be busy before another is started beside it. */
const BUSY = 100;
/** Milliseconds after which a thread with nothing to do is ended, but for the first. */
const IDLE = 30_000;
/** Milliseconds in which a thread must have loaded the tokenizer. */
const START = 120_000;
/** Of the thread's own heap: a template that makes too much ends its thread, not the process. */
const HEAP_MEGABYTES = 2048;

/** Milliseconds after which a pool that nobody uses is closed. */
const UNUSED = 2_000;

type Client = WorkerClient<PromptHandlers>;

interface Waiting {
  /** Sends the task to a thread. */
  send(client: Client): Promise<unknown>;
  signal: AbortSignal | undefined;
  resolve(result: unknown): void;
  reject(error: unknown): void;
}

interface Thread {
  client: Client;
  isReady: boolean;
  job: Waiting | undefined;
  timer: NodeJS.Timeout | undefined;
}

export interface PromptPoolOptions {
  /** Seconds that a prompt may take; 0: for ever. */
  timeout: number;
}

export interface SharedPool {
  pool: PromptPool;
  giveBack(): void;
}

const pools = new Map<string, { pool: PromptPool; users: number; timer: NodeJS.Timeout | undefined }>();

/**
 * Threads in which the model's own template and tokenizer read prompts: the server's thread continues in any case. A
 * prompt that takes too long, or too much memory, costs its thread, which is replaced.
 */
export class PromptPool {
  readonly #tokenizer: PromptTokenizer;
  readonly #timeout: number;
  readonly #threads = new Set<Thread>();
  #waiting: Waiting[] = [];
  #grow: NodeJS.Timeout | undefined;
  /** Starts in a row that failed. */
  #failures = 0;
  #isClosed = false;
  /** Prompts that cost a thread. */
  givenUp = 0;

  constructor(tokenizer: PromptTokenizer, { timeout }: PromptPoolOptions) {
    this.#tokenizer = tokenizer;
    this.#timeout = timeout;
    this.#start();
  }

  /**
   * Does a task in a thread.
   *
   * @throws ApiError prompt_too_costly, queue_full, internal_error; TokenizerError; the signal's reason
   */
  async run<K extends keyof PromptHandlers>(
    kind: K,
    task: Parameters<PromptHandlers[K]>[0],
    signal?: AbortSignal,
  ): Promise<ResultOf<PromptHandlers, K>> {
    signal?.throwIfAborted();
    if (this.#waiting.length >= MAX_WAITING) {
      throw new ApiError("queue_full", `${MAX_WAITING} prompts wait to be read; try again later`, { retryAfter: 1 });
    }
    const result = await new Promise<unknown>((resolve, reject) => {
      const send = (client: Client) => client.call(kind, task as never);
      this.#waiting.push({ send, signal, resolve, reject });
      this.#next();
    });
    return result as ResultOf<PromptHandlers, K>;
  }

  /** A pool that servers of the same tokenizer share, until each has given it back. */
  static shared(tokenizer: PromptTokenizer, options: PromptPoolOptions): SharedPool {
    const key = JSON.stringify([tokenizer, options]);
    const entry = pools.get(key) ?? { pool: new PromptPool(tokenizer, options), users: 0, timer: undefined };
    pools.set(key, entry);
    clearTimeout(entry.timer);
    entry.users++;
    let isHeld = true;
    const giveBack = () => {
      if (!isHeld) return;
      isHeld = false;
      if (--entry.users > 0) return;
      entry.timer = setTimeout(() => {
        pools.delete(key);
        entry.pool.close();
      }, UNUSED).unref();
    };
    return { pool: entry.pool, giveBack };
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#grow);
    const closed = new ApiError("draining", "the server was stopped before this request was done", { retryAfter: 1 });
    for (const { reject } of this.#waiting.splice(0)) reject(closed);
    for (const thread of this.#threads) {
      thread.job?.reject(closed);
      this.#drop(thread);
    }
  }

  #next(): void {
    this.#waiting = this.#waiting.filter(({ signal, reject }) => {
      if (!signal?.aborted) return true;
      reject(signal.reason);
      return false;
    });
    for (const thread of this.#threads) {
      if (this.#waiting.length === 0) break;
      if (thread.isReady && !thread.job) this.#give(thread, this.#waiting.shift() as Waiting);
    }
    if (this.#isClosed || this.#waiting.length === 0) return;
    if (this.#threads.size === 0) this.#start();
    else if (this.#threads.size < MAX_THREADS) {
      this.#grow ??= setTimeout(() => {
        this.#grow = undefined;
        const isBusy = [...this.#threads].every(({ isReady, job }) => isReady && job);
        if (this.#waiting.length > 0 && isBusy) this.#start();
        this.#next();
      }, BUSY).unref();
    }
  }

  #give(thread: Thread, job: Waiting): void {
    thread.job = job;
    clearTimeout(thread.timer);
    if (this.#timeout > 0) {
      thread.timer = setTimeout(() => {
        this.#lose(thread, `takes longer than ${this.#timeout} s`);
      }, this.#timeout * 1000);
    }
    const settle = (report: () => void) => {
      if (thread.job !== job) return; // the thread was lost, and the job with it
      thread.job = undefined;
      report();
      this.#rest(thread);
      this.#next();
    };
    job.send(thread.client).then(
      (result) => settle(() => job.resolve(result)),
      (error) => {
        if (!thread.client.failure) settle(() => job.reject(error)); // otherwise #lose reports it
      },
    );
  }

  #start(): void {
    if (this.#isClosed) return;
    const link = threadLink("prompt-thread", import.meta.url, {
      workerData: this.#tokenizer,
      resourceLimits: { maxOldGenerationSizeMb: HEAP_MEGABYTES },
    });
    const client: Client = new WorkerClient(link, {
      keepsProcess: true,
      revive: ({ name, code, message }) =>
        name === "TokenizerError" ? new TokenizerError(code as TokenizerErrorCode, message) : undefined,
      onEnd: (error) => this.#lose(thread, whyItEnded(error)),
    });
    const thread: Thread = { client, isReady: false, job: undefined, timer: undefined };
    this.#threads.add(thread);
    thread.timer = setTimeout(() => this.#lose(thread, "the tokenizer was not loaded in time"), START).unref();
    client.ready.then(
      () => {
        thread.isReady = true;
        this.#failures = 0;
        this.#rest(thread);
        this.#next();
      },
      () => {}, // #lose reports it
    );
  }

  /** One of several threads that has nothing to do is ended after a while. */
  #rest(thread: Thread): void {
    clearTimeout(thread.timer);
    thread.timer = setTimeout(() => {
      if (this.#threads.size > 1 && !thread.job) this.#drop(thread);
    }, IDLE).unref();
  }

  /** A thread that is of no use any more, and what it worked on. */
  #lose(thread: Thread, why: string): void {
    if (!this.#threads.has(thread)) return;
    this.#drop(thread);
    const { job, isReady } = thread;
    if (job) {
      this.givenUp++;
      job.reject(
        new ApiError("prompt_too_costly", `reading this prompt by the model's own template and tokenizer ${why}`),
      );
    }
    if (!isReady && ++this.#failures >= 3) {
      this.#failures = 0;
      const error = new Error(`prompts cannot be read: ${why}`);
      for (const { reject } of this.#waiting.splice(0)) reject(error);
      return;
    }
    if (this.#threads.size === 0) this.#start();
    this.#next();
  }

  #drop(thread: Thread): void {
    this.#threads.delete(thread);
    clearTimeout(thread.timer);
    void thread.client.kill();
  }
}

function whyItEnded(error: Error): string {
  if (!(error instanceof WorkerEnded)) return error.message;
  const { code } = (error.cause ?? {}) as NodeJS.ErrnoException;
  if (code === "ERR_WORKER_OUT_OF_MEMORY") return "takes more memory than there is for it";
  return error.cause === undefined ? "ended its thread" : error.reason;
}
