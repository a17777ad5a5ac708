import { initProcessGroup, readLaunchEnvironment, type World, world } from "../distributed/index.js";
import type { ParallelSettings } from "../parallel/index.js";
import { TrainError } from "./errors.js";

/**
 * Joins the processes that a launcher started with this one, unless that was done.
 *
 * @returns undefined in a process of its own
 * @throws TrainError TRAIN_OPTIONS where they joined with another backend than the run wants
 */
export async function joinLaunched({
  backend,
  timeouts,
}: Pick<ParallelSettings, "backend" | "timeouts">): Promise<World | undefined> {
  const joined = world();
  if (!joined) {
    const environment = readLaunchEnvironment();
    return environment && (await initProcessGroup({ backend, timeout: timeouts.init, environment }));
  }
  if (backend === undefined || backend === joined.group.backend) return joined;
  const message = `parallel.backend is "${backend}", but the processes joined with "${joined.group.backend}"`;
  const remedy = `call initProcessGroup({ backend: "${backend}" }) before anything else, or write the curriculum in YAML`;
  throw new TrainError("TRAIN_OPTIONS", `${message}: ${remedy}`);
}
