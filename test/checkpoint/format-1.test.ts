import { cpSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { CheckpointStore, loadOptimizerSlices, StableDiffCoder } from "../../lib/checkpoint/index.js";
import * as torch from "../../lib/torch/index.js";
import { fixture } from "../nn/golden.js";
import { bitsOf, byRows, localTensors, restore, temporaryFolder, trained } from "./support.js";

// A checkpoint that this package wrote before there were shards: scripts/fixtures/checkpoint_format_1.sh.
const OLD = fixture("checkpoint-format-1");

/** A run with the old checkpoint. */
function oldRun() {
  const run = temporaryFolder();
  cpSync(OLD, join(run, "checkpoints", "step-000010"), { recursive: true });
  return { folder: join(run, "checkpoints", "step-000010"), store: new CheckpointStore(run, 2) };
}

it("a checkpoint of format 1 is found, whole, and loads into one process and into several", async () => {
  const { store } = oldRun();
  const found = await store.newest((warning) => expect.unreachable(warning));
  if (!found) return expect.unreachable();
  expect(found).toMatchObject({ name: "step-000010", worldSize: 1, optimizerStep: 10, progress: { globalStep: 10 } });
  const one = trained();
  await restore(found, one);
  using weights = torch.openSafetensors(join(OLD, "model.safetensors"));
  using state = torch.openSafetensors(join(OLD, "optimizer.safetensors"));
  const all = (file: torch.SafetensorsFile) => bitsOf(file.keys().map((name) => [name, file.get(name)] as const));
  const { step, tensors } = one.optimizer.stateDict();
  expect(step).toBe(10);
  expect(bitsOf(Object.entries(tensors))).toEqual(all(state));
  using loaded = await StableDiffCoder.fromPretrained(OLD);
  expect(bitsOf(one.model.namedParameters())).toEqual(bitsOf(loaded.model.namedParameters()));
  expect(Object.values(bitsOf(loaded.model.namedParameters())).sort()).toEqual(Object.values(all(weights)).sort());
  await torch.scope(async () => {
    for (const rank of [0, 1, 2]) {
      const slots = localTensors(Object.entries(tensors), byRows(3), rank, 0);
      expect(found?.optimizerStep).toBe(10);
      await loadOptimizerSlices(slots, found?.path ?? "");
      const bits = (list: typeof slots) => bitsOf(list.map(({ name, tensor }) => [name, tensor] as const));
      expect(bits(slots)).toEqual(bits(localTensors(Object.entries(tensors), byRows(3), rank)));
    }
  });
});

it("damage to it is found", async () => {
  const { folder, store } = oldRun();
  const path = join(folder, "optimizer.safetensors");
  const bytes = readFileSync(path);
  writeFileSync(path, Buffer.from(bytes).fill(1, bytes.length - 1));
  await expect(store.newest(() => {})).rejects.toThrow(/optimizer\.safetensors does not match its checksum/);
  truncateSync(path, 99);
  await expect(store.newest(() => {})).rejects.toThrow(/optimizer\.safetensors has 99 bytes instead of 53944/);
});
