// One rank: runs the jobs that the test posts, together with the other threads.
import { parentPort, workerData } from "node:worker_threads";
import * as torch from "../../../lib/torch/index.js";
import { jobs } from "./jobs.js";
import { ThreadGroup } from "./thread-group.js";

const { rank, threads, memory } = workerData as { rank: number; threads: number; memory: SharedArrayBuffer };
const channels = ThreadGroup.channels(memory, rank, threads);
torch.setNumThreads(1);

parentPort?.on("message", async ({ size, name, data }: { size: number; name: keyof typeof jobs; data: never }) => {
  try {
    const value = await jobs[name](new ThreadGroup(rank, size, channels), data);
    parentPort?.postMessage({ value });
  } catch (error) {
    parentPort?.postMessage({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  }
});
parentPort?.postMessage({ value: "ready" });
