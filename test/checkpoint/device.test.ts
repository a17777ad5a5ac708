import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { FakeCuda } from "../devices/fake-cuda.js";
import { heldTensors } from "../torch/held-tensors.js";

// Before anything looks up an operator.
const fake = new FakeCuda();
const torch = await import("../../lib/torch/index.js");
const { wholeTensor } = await import("../../lib/distributed/tensor-slice.js");
const { CheckpointStore } = await import("../../lib/checkpoint/index.js");
const { contentOf, smallModel, temporaryFolder } = await import("./support.js");

it("on a device waits once, without blocking, and hands over copies larger than a piece", async () => {
  using model = smallModel();
  model.to({ device: "cuda" });
  // 8 MiB is a piece: this takes four and a bit, more than are under way at once.
  const large = torch.randn([9_000_001], { device: "cuda" });
  const small = torch.randn([5], { device: "cuda", dtype: "bfloat16" });
  const run = temporaryFolder("large");
  const store = new CheckpointStore(run, 5);
  for (let save = 1; save <= 3; save++) {
    torch.noGrad(() => large.mul_(1.5));
    torch.saveSafetensors(join(run, "expected"), { "a.large": large, "b.small": small });
    const tensors = [wholeTensor("a.large", large), wholeTensor("b.small", small)];
    const content = contentOf({ model, optimizer: null as never }, save, { optimizer: { step: 1, tensors } });
    fake.take();
    const pending = await store.begin(`step-00000${save}`, content);
    expect(fake.take().waits).toEqual({ read: 1 });
    torch.noGrad(() => large.fill_(save));
    const folder = await store.commit(pending, [await pending.done]);
    expect(fake.take().waits).toEqual({});
    expect(readFileSync(join(folder, "optimizer.state")).equals(readFileSync(join(run, "expected")))).toBe(true);
    torch.noGrad(() => large.add_(torch.randn([1], { device: "cuda" })));
  }
  await store.close();
});

it("gives the memory of its copies back, also of a save that is given up", async () => {
  using model = smallModel();
  model.to({ device: "cuda" });
  const large = torch.randn([9_000_001], { device: "cuda" });
  const store = new CheckpointStore(temporaryFolder("large"), 5);
  const optimizer = { step: 1, tensors: [wholeTensor("a.large", large)] };
  const content = (save: number) => contentOf({ model, optimizer: null as never }, save, { optimizer });
  await store.save("step-000001", content(1));
  const before = heldTensors();
  for (let save = 2; save <= 6; save += 2) {
    const pending = await store.begin("given-up", content(save));
    await pending.abort();
    await expect(pending.done).rejects.toThrow(/the save was given up/);
    await store.save(`step-00000${save}`, content(save));
    expect(heldTensors()).toBe(before);
  }
  await store.close();
  expect(heldTensors()).toBeLessThan(before);
  large.dispose();
});
