import { Worker } from "node:worker_threads";

export interface ThreadOrder {
  rank: number;
  port: number;
  /** Whether the thread of rank 0 serves the store itself. */
  serves: boolean;
}

/** Runs exiting-thread.ts in a thread, and gives how it ended and what it said. */
export async function endOfThread(workerData: ThreadOrder): Promise<{ code: number; messages: unknown[] }> {
  const thread = new Worker(new URL("./exiting-thread.mjs", import.meta.url), { workerData, execArgv: [] });
  const messages: unknown[] = [];
  thread.on("message", (message) => messages.push(message));
  const code = await new Promise<number>((resolve, reject) => thread.on("error", reject).on("exit", resolve));
  return { code, messages };
}
