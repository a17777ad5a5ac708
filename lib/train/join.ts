import { type InitOptions, initProcessGroup, readLaunchEnvironment, type World, world } from "../distributed/index.js";

/**
 * Joins the processes that a launcher started with this one.
 *
 * @returns undefined in a process of its own
 */
export async function joinLaunched(options: Omit<InitOptions, "environment"> = {}): Promise<World | undefined> {
  const environment = world()?.environment ?? readLaunchEnvironment();
  if (!environment) return undefined;
  return world() ?? (await initProcessGroup({ ...options, environment }));
}
