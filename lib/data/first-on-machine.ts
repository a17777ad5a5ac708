import { DistributedError, world } from "../distributed/index.js";

/** How long one process may prepare while the others wait. */
const PATIENCE_SECONDS = 24 * 3600;

/**
 * Has one process of each machine do what leaves something on its disk, and the others after it, who then find it done.
 * All processes of a run call it alike. A process of its own just does it.
 *
 * @throws DistributedError DISTRIBUTED_PEER on the processes that waited for one that failed
 */
export async function firstOnMachine<T>(prepare: () => Promise<T>): Promise<T> {
  const joined = world();
  if (!joined) return await prepare();
  const { control, localRank } = joined;
  const isFirst = localRank === 0;
  let outcome: { value?: T; error?: unknown } = {};
  if (isFirst) outcome = await settle(prepare);
  const usual = control.timeout;
  control.timeout = PATIENCE_SECONDS;
  const own = outcome.error === undefined ? null : String(outcome.error);
  const messages = await control.allGatherObject(own).finally(() => {
    control.timeout = usual;
  });
  if (outcome.error !== undefined) throw outcome.error;
  const failed = messages.findIndex((message) => message !== null);
  if (failed >= 0) throw new DistributedError("DISTRIBUTED_PEER", `rank ${failed} failed: ${messages[failed]}`);
  return isFirst ? (outcome.value as T) : await prepare();
}

async function settle<T>(prepare: () => Promise<T>): Promise<{ value?: T; error?: unknown }> {
  try {
    return { value: await prepare() };
  } catch (error) {
    return { error };
  }
}
