import { once } from "node:events";
import { Worker } from "node:worker_threads";
import type { jobs } from "./children/jobs.js";
import { channelMemory } from "./children/thread-group.js";

type Jobs = typeof jobs;

/** Threads that play the ranks of a group. */
export class Ranks {
  readonly #workers: Worker[];
  readonly #ready: Promise<unknown>;

  constructor(threads: number) {
    const memory = channelMemory(threads);
    this.#workers = Array.from(
      { length: threads },
      (_, rank) =>
        new Worker(new URL("./children/rank.mjs", import.meta.url), {
          workerData: { rank, threads, memory },
          execArgv: [],
        }),
    );
    this.#ready = Promise.all(this.#workers.map((worker) => once(worker, "message")));
  }

  /** Runs a job on the first `size` ranks and gives what each returns. */
  async run<Name extends keyof Jobs>(
    size: number,
    name: Name,
    data: Parameters<Jobs[Name]>[1],
  ): Promise<Awaited<ReturnType<Jobs[Name]>>[]> {
    await this.#ready;
    const members = this.#workers.slice(0, size);
    const answers = members.map((worker) => once(worker, "message"));
    for (const worker of members) worker.postMessage({ size, name, data });
    const results = (await Promise.all(answers)).map(([answer]) => answer as { value: never; error?: string });
    const errors = results.flatMap(({ error }, rank) => (error ? [`rank ${rank}: ${error}`] : []));
    if (errors.length > 0) throw new Error(errors.join("\n"));
    return results.map(({ value }) => value);
  }

  async stop(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}
