import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach } from "vitest";
import type { CheckpointStore, FoundCheckpoint } from "../../lib/checkpoint/index.js";
import * as torch from "../../lib/torch/index.js";
import { type Cut, contentsOf, makeTrained, saveTogether, storesOf, type Trained } from "./ranks.js";

export * from "./ranks.js";

const folders: string[] = [];
const disposables: Disposable[] = [];
afterEach(() => {
  for (const disposable of disposables.splice(0)) disposable[Symbol.dispose]();
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

/**
 * A folder that is gone after the test. In memory where there is such a place, for these tests wait for the disk thousands
 * of times and are not about its speed.
 *
 * @param size "large": for more than a few megabytes
 */
export function temporaryFolder(size: "small" | "large" = "small"): string {
  const parent = size === "small" && existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
  const folder = mkdtempSync(join(parent, "diffcoder-saved-"));
  folders.push(folder);
  return folder;
}

/** {@link makeTrained}, freed after the test. */
export function trained(seed = 1): Trained {
  const made = makeTrained(seed);
  disposables.push(made.model, { [Symbol.dispose]: () => made.optimizer.dispose() });
  return made;
}

/** Saves a model of `size` ranks into a new run. */
export async function savedBy(
  size: number,
  whole: Trained,
  cut?: Cut,
  name = "step-000001",
): Promise<{ run: string; found: FoundCheckpoint; stores: CheckpointStore[] }> {
  const run = temporaryFolder();
  const stores = storesOf(run, size);
  const checkpoint = await torch.scope(async () => saveTogether(stores, name, contentsOf(whole, size, cut)));
  return { run, stores, found: checkpoint };
}
