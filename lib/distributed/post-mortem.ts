import { DistributedError } from "./errors.js";
import type { World } from "./world.js";

/** Seconds that the surviving ranks wait for each other's heartbeat. */
const SIGN_OF_LIFE_SECONDS = 5;

/**
 * After a failure, writes this process's error to the store, or finds out which of the other ranks failed. Healthy
 * ranks write a heartbeat to the store; ranks without one after a few seconds are reported as gone or stuck.
 *
 * @param error the error that this process caught
 * @returns an error that names the failed ranks; `error` itself if this process is the cause
 */
export async function explainFailure(world: World, error: unknown): Promise<unknown> {
  if (explained.has(error as object)) return error;
  const cause = await explain(world, error);
  if (typeof cause === "object" && cause !== null) explained.add(cause);
  return cause;
}

const explained = new WeakSet<object>();

async function explain(world: World, error: unknown): Promise<unknown> {
  const isFollow =
    error instanceof DistributedError && ["DISTRIBUTED_PEER", "DISTRIBUTED_TIMEOUT"].includes(error.code);
  const { rank, size, store, environment } = world;
  const others = Array.from({ length: size }, (_, i) => i).filter((i) => i !== rank);
  try {
    if (!isFollow) {
      store.set(`failed/${rank}`, String(error instanceof Error ? error.message : error));
      store.set("failed", String(rank)); // the first failure, for readers that do not know the rank
      return error;
    }
    store.set(`alive/${rank}`, "1");
    const deadline = performance.now() + SIGN_OF_LIFE_SECONDS * 1000;
    const unheard = () => others.filter((i) => !store.check([`alive/${i}`]) && !store.check([`failed/${i}`]));
    while (unheard().length > 0 && performance.now() < deadline) await new Promise((done) => setTimeout(done, 50));
    const causes: string[] = [];
    for (const i of others) {
      if (store.check([`failed/${i}`])) causes.push(`rank ${i} failed: ${await store.getText(`failed/${i}`, 1)}`);
    }
    const gone = unheard();
    if (gone.length > 0) {
      const who = gone.length === 1 ? `rank ${gone[0]} is` : `ranks ${gone.join(", ")} are`;
      causes.push(`${who} gone or stuck: no heartbeat for ${SIGN_OF_LIFE_SECONDS} s`);
    }
    if (causes.length === 0) return error;
    return new DistributedError(error.code, `${causes.join("; ")} (${error.message})`, { cause: error });
  } catch (storeError) {
    if (!isFollow) return error;
    const where = `${environment.masterAddr}:${environment.masterPort}`;
    const holder = environment.storeIsHosted ? "the launcher" : "rank 0";
    const message = `${holder}, which holds the store at ${where}, is gone (${(error as Error).message})`;
    return new DistributedError("DISTRIBUTED_PEER", message, { cause: storeError });
  }
}
