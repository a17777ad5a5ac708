import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  CheckpointStore,
  loadOptimizerSlices,
  type PendingCheckpoint,
  weightName,
} from "../../lib/checkpoint/index.js";
import { wholeTensor } from "../../lib/distributed/tensor-slice.js";
import * as torch from "../../lib/torch/index.js";
import { failWriter } from "../train/faults.js";
import {
  bitsOf,
  checkpointsOf,
  contentOf,
  contentsOf,
  found,
  reportsOf,
  restore,
  saveTogether,
  shake,
  storesOf,
  temporaryFolder,
  trained,
} from "./support.js";

/** Changes every number of a model and its optimiser, as a training step does. */
function disturb({ model, optimizer }: ReturnType<typeof trained>, value = 9): void {
  torch.noGrad(() => {
    for (const tensor of [...model.parameters(), ...Object.values(optimizer.stateDict().tensors)]) tensor.fill_(value);
  });
}

/** The bytes that saveSafetensors would write now. */
function bytesNow({ model, optimizer }: ReturnType<typeof trained>): Record<string, Buffer> {
  const folder = temporaryFolder();
  const weights = Object.fromEntries(
    Array.from(model.namedParameters(), ([name, tensor]) => [weightName(name), tensor]),
  );
  torch.saveSafetensors(join(folder, "model.safetensors"), weights, { format: "pt" });
  torch.saveSafetensors(join(folder, "optimizer.state"), optimizer.stateDict().tensors);
  return filesOf(folder, ["model.safetensors", "optimizer.state"]);
}

const filesOf = (folder: string, names: string[]) =>
  Object.fromEntries(names.map((name) => [name, readFileSync(join(folder, name))]));

describe("an asynchronous save", () => {
  it("writes the bytes of a synchronous one, whatever happens to the tensors meanwhile", async () => {
    const run = temporaryFolder();
    const store = new CheckpointStore(run, 5);
    const whole = trained();
    for (let save = 1; save <= 3; save++) {
      shake(whole.optimizer, save);
      const expected = bytesNow(whole);
      const pending = await store.begin(`step-00000${save}`, contentOf(whole, save));
      disturb(whole, save);
      expect(pending.report()).toBeUndefined();
      const report = await pending.done;
      expect(pending.report()).toBe(report);
      const folder = await store.commit(pending, [report]);
      const written = filesOf(folder, Object.keys(expected));
      for (const [name, bytes] of Object.entries(expected)) expect(written[name].equals(bytes), name).toBe(true);
      expect(await store.verify(found(folder))).toBeUndefined();
    }
  });

  it("of several processes holds what they had, too", async () => {
    await torch.scope(async () => {
      const run = temporaryFolder();
      const stores = storesOf(run, 3);
      const whole = trained();
      const expected = bitsOf(whole.model.namedParameters());
      const contents = contentsOf(whole, 3);
      const pending = await Promise.all(stores.map((store, rank) => store.begin("final", contents[rank])));
      for (const { weights } of contents) for (const { tensor } of weights) tensor.fill_(9);
      const folder = await stores[0].commit(pending[0], await reportsOf(pending));
      const other = trained(2);
      await restore(found(folder), { model: other.model });
      expect(bitsOf(other.model.namedParameters())).toEqual(expected);
    });
  });

  it("keeps progress as it was, too", async () => {
    const store = new CheckpointStore(temporaryFolder(), 2);
    const content = contentOf(trained(), 4);
    const pending = await store.begin("named", content);
    content.progress.globalStep = 5;
    content.progress.objective.later = true;
    const folder = await store.commit(pending, [await pending.done]);
    expect(found(folder).progress).toMatchObject({ globalStep: 4, objective: {} });
  });

  it("takes any dtype and shape: none, one, many elements", async () => {
    const tensors = torch.scope(() => ({
      "a.float64": torch.randn([3, 5], { dtype: "float64" }),
      "a.bfloat16": torch.randn([7], { dtype: "bfloat16" }),
      "a.transposed": torch.randn([4, 6]).transpose(0, 1),
      "a.bool": torch.randn([5]).gt(0),
      "a.int64": torch.randint(0, 1000, [2, 2, 2], { dtype: "int64" }),
      "a.scalar": torch.tensor(3.5),
      "a.empty": torch.zeros([0, 4]),
    }));
    const run = temporaryFolder();
    const store = new CheckpointStore(run, 2);
    const whole = trained();
    const state = { step: 1, tensors: Object.entries(tensors).map(([name, tensor]) => wholeTensor(name, tensor)) };
    const folder = await store.save("named", contentOf(whole, 1, { optimizer: state }));
    torch.saveSafetensors(join(run, "expected"), tensors);
    expect(readFileSync(join(folder, "optimizer.state")).equals(readFileSync(join(run, "expected")))).toBe(true);
    const back = Object.entries(tensors).map(([name, tensor]) => wholeTensor(name, torch.zerosLike(tensor)));
    await loadOptimizerSlices(back, found(folder).path);
    const bits = (list: typeof back) => bitsOf(list.map(({ name, tensor }) => [name, tensor.contiguous()] as const));
    expect(bits(back)).toEqual(bits(state.tensors));
    for (const { tensor } of [...back, ...state.tensors]) tensor.dispose();
  });

  it("waits for the one before", async () => {
    const run = temporaryFolder();
    const store = new CheckpointStore(run, 5);
    const whole = trained();
    const first = store.begin("step-000001", contentOf(whole, 1));
    const second = store.begin("step-000002", contentOf(whole, 2));
    const third = store.begin("step-000003", contentOf(whole, 3));
    const order: string[] = [];
    const note = (name: string) => () => order.push(name);
    void first.then(({ done }) => done).then(note("first is written"));
    void second.then(note("second is taken"));
    void second.then(({ done }) => done).then(note("second is written"));
    await third.then(note("third is taken"));
    expect(order).toEqual(["first is written", "second is taken", "second is written", "third is taken"]);
    for (const save of [first, second, third]) {
      const pending = await save;
      await store.commit(pending, [await pending.done]);
    }
    expect(checkpointsOf(run)).toEqual(["step-000001", "step-000002", "step-000003"]);
    expect((await store.newest(() => {}))?.name).toBe("step-000003");
  });

  it("replaces a checkpoint of the same name", async () => {
    const run = temporaryFolder();
    const store = new CheckpointStore(run, 5);
    const whole = trained();
    await store.save("final", contentOf(whole, 1));
    const folder = await store.save("final", contentOf(whole, 2));
    expect(found(folder).progress.globalStep).toBe(2);
    expect(checkpointsOf(run)).toEqual(["final"]);
  });

  it("keeps the last unnamed checkpoints and all named ones", async () => {
    const run = temporaryFolder();
    const stores = storesOf(run, 2, 2);
    const whole = trained();
    await torch.scope(async () => {
      for (const [step, name] of ["step-000001", "pre-anneal", "step-000003", "step-000004"].entries()) {
        await saveTogether(stores, name, contentsOf(whole, 2, undefined, step + 1));
      }
    });
    expect(checkpointsOf(run)).toEqual(["pre-anneal", "step-000003", "step-000004"]);
    const { readable, unreadable } = stores[0].candidates();
    expect(readable.map(({ name }) => name)).toEqual(["step-000004", "step-000003", "pre-anneal"]);
    expect(unreadable).toEqual([]);
  });

  it("can be given up", async () => {
    const run = temporaryFolder();
    const stores = storesOf(run, 2);
    const whole = trained();
    await torch.scope(async () => {
      await saveTogether(stores, "step-000001", contentsOf(whole, 2));
      const contents = contentsOf(whole, 2);
      const pending = await Promise.all(stores.map((store, rank) => store.begin("step-000002", contents[rank])));
      await Promise.all(pending.map((each) => each.abort()));
      expect(checkpointsOf(run).filter((name) => !name.startsWith("."))).toEqual(["step-000001"]);
      mkdirSync(join(run, "checkpoints", ".step-000002.1.tmp")); // as a rank that was late leaves it
      await saveTogether(stores, "step-000002", contents);
    });
    expect(checkpointsOf(run)).toEqual(["step-000001", "step-000002"]);
  });

  it("goes on after its thread has ended: that save fails, the next has a new one", async () => {
    const run = temporaryFolder();
    const store = new CheckpointStore(run, 2);
    const whole = trained();
    await store.save("step-000001", contentOf(whole, 1));
    let pending: PendingCheckpoint;
    {
      using _faults = failWriter(3, { end: "ended thread" });
      pending = await store.begin("step-000002", contentOf(whole, 2));
      await expect(pending.done).rejects.toMatchObject({
        code: "CHECKPOINT_WRITE",
        message: expect.stringMatching(/cannot save .*step-000002: the thread writer-thread ended: exit code 3/),
      });
    }
    expect(pending.error).toMatchObject({ code: "CHECKPOINT_WRITE" });
    expect(pending.report()).toBeUndefined();
    await store.save("step-000003", contentOf(whole, 3));
    expect(checkpointsOf(run)).toEqual(["step-000001", "step-000003"]);
  });
});
