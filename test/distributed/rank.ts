import { destroyProcessGroup, initProcessGroup, type World } from "../../lib/distributed/index.js";
import * as torch from "../../lib/torch/index.js";

// For the processes that support.ts starts: test files import that, their children this.

/** Hands a result to the test. The last one counts. */
export function report(result: unknown): Promise<void> {
  return new Promise((resolve, reject) => {
    if (!process.send) throw new Error("nobody listens: start this file with startRanks or runRanks");
    process.send({ result }, undefined, {}, (error) => (error ? reject(error) : resolve()));
  });
}

/**
 * Meets the other ranks, runs `body`, reports what it gives, leaves. An error ends the process with code 1. Gloo and the
 * CPU, unless DIFFCODER_TEST_BACKEND says nccl.
 */
export async function asRank<T>(body: (world: World) => T | Promise<T>, { timeout = 20 } = {}): Promise<void> {
  torch.setNumThreads(1);
  const world = await initProcessGroup({
    backend: process.env.DIFFCODER_TEST_BACKEND === "nccl" ? "nccl" : "gloo",
    timeout,
  });
  try {
    const result = await body(world);
    await report(result);
    await world.control.barrier(); // nobody leaves while another still needs the store
    await destroyProcessGroup();
  } catch (error) {
    console.error(error);
    process.exit(1);
  }
  process.exit(0);
}
