import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  communication,
  DataParallel,
  destroyProcessGroup,
  initProcessGroup,
  type World,
} from "../../lib/distributed/index.js";
import { Decoder, presetConfig } from "../../lib/model/index.js";
import { AdamW } from "../../lib/nn/index.js";
import { ParallelModel, type ParallelOptions, parallelSchema } from "../../lib/parallel/index.js";
import * as torch from "../../lib/torch/index.js";
import { autoregressive, blockDiffusion, type TrainEvent } from "../../lib/train/index.js";
import { planStages } from "../../lib/train/plan.js";
import { Trainer } from "../../lib/train/trainer.js";
import { alone, expectClose, expectSame, finalWeights, temporaryFolder } from "../distributed/runs.js";
import { freePort, runRanks } from "../distributed/support.js";
import { device, Hog, memory, onGpu, record, relativeError, sized, synchronize } from "./support.js";

type Tensor = torch.Tensor;

/** One process with NCCL, as `diffcoder launch --nproc-per-node 1` would start it; in a rehearsal with Gloo. */
let world: World;
beforeAll(async () => {
  const launch = { RANK: 0, WORLD_SIZE: 1, LOCAL_RANK: 0, LOCAL_WORLD_SIZE: 1, MASTER_ADDR: "127.0.0.1" };
  for (const [name, value] of Object.entries(launch)) process.env[name] = String(value);
  process.env.MASTER_PORT = String(await freePort());
  world = await initProcessGroup({ timeout: 60 });
});
afterAll(async () => {
  await destroyProcessGroup();
  for (const name of Object.keys(process.env))
    if (/^(RANK|(LOCAL_)?WORLD_SIZE|LOCAL_RANK|MASTER_)/.test(name)) delete process.env[name];
});

const backend = onGpu ? "nccl" : "gloo";
const ones = (...shape: number[]) => torch.ones(shape, { device });

describe("a world of one", () => {
  it("takes the device of its local rank, and keeps small objects on the host", async () => {
    expect(world).toMatchObject({ rank: 0, size: 1, device: onGpu ? "cuda:0" : "cpu" });
    expect(world.group.backend).toBe(backend);
    expect(world.control.backend).toBe("gloo");
    expect(await world.control.allGatherObject({ a: [1, "ü"] })).toEqual([{ a: [1, "ü"] }]);
  });

  it.each(["float32", "bfloat16", "float16", "float64", "int64", "int32", "uint8", "bool"] as const)(
    "does every collective in %s",
    async (dtype) => {
      const { group } = world;
      await torch.scope(async () => {
        const x = torch.tensor([3, 0, 1]).to({ dtype, device });
        const same = x.clone();
        const out = torch.zeros([3], { dtype, device });
        for (const op of ["sum", "product", "min", "max"] as const) await group.allReduce(x, { op });
        if (/float/.test(dtype)) await group.allReduce(x, { op: "avg" });
        await group.allReduce([x, out.clone()]);
        await group.reduce(x);
        await group.broadcast(x);
        expect(x.equal(same)).toBe(true);
        for (const work of [
          () => group.allGather(out, x),
          () => group.allGatherList([out], x),
          () => group.reduceScatter(out, x),
          () => group.gather(x, { outputs: [out] }),
          () => group.scatter(out, { inputs: [x] }),
          () => group.allToAll(out, x),
          () => group.allToAll(out, x, { inputSplits: [3], outputSplits: [3] }),
        ]) {
          out.zero_();
          await work();
          expect(out.equal(x)).toBe(true);
          out.zero_();
          work().wait();
          expect(out.equal(x)).toBe(true);
        }
        await group.barrier();
        group.barrier().wait();
      });
    },
  );

  it("refuses what the backend has not", () => {
    const { group } = world;
    torch.scope(() => {
      const refused = expect.objectContaining({ code: "DISTRIBUTED_ARGUMENT" });
      expect(() => group.allReduce(ones(2).to("int16"))).toThrowError(refused);
      expect(() => group.allReduce(ones(2).long(), { op: "avg" })).toThrowError(refused);
      expect(() => group.allReduce(ones(2, 3).transpose(0, 1))).toThrowError(/contiguous/);
      if (!onGpu) return;
      expect(() => group.allReduce(ones(2).long(), { op: "bor" })).toThrowError(refused);
      expect(() => group.allReduce(torch.ones([2]))).toThrowError();
      expect(() => group.recv(ones(2))).toThrowError();
    });
  });

  it("makes groups of its own, and leaves them", async () => {
    const group = await world.group.subgroup([0]);
    const x = ones(4);
    await group.allReduce(x);
    await group.destroy();
    await world.group.allReduce(x);
    expect(x.tolist()).toEqual([1, 1, 1, 1]);
    x.dispose();
  });
});

describe("while the device is busy", () => {
  const elements = sized(2 ** 24, 2 ** 10);

  it("a collective and its wait() do not block the host, and what follows has its result", () => {
    const hog = new Hog();
    torch.scope(() => {
      const x = ones(elements);
      world.group.allReduce(x).wait(); // the communicator is made with the first one
      synchronize();
      hog.work(1000);
      const start = performance.now();
      x.fill_(2);
      world.group.allReduce(x).wait();
      const after = x.mul(3);
      const host = performance.now() - start;
      expect(after.amin().item()).toBe(6);
      expect(after.amax().item()).toBe(6);
      expect(host).toBeLessThan(500);
      record("host time of an all-reduce with wait() behind a second of other work", `${host.toFixed(2)} ms`);
    });
    hog.dispose();
  });

  it("one that is awaited lets the event loop go on, and has ended then", async () => {
    const hog = new Hog();
    const x = ones(elements);
    synchronize();
    hog.work(600);
    const start = performance.now();
    const work = world.group.allReduce(x);
    const begun = performance.now() - start;
    let ticks = 0;
    const timer = setInterval(() => ticks++, 10);
    await work;
    clearInterval(timer);
    expect(work.isCompleted).toBe(true);
    expect(begun).toBeLessThan(300);
    if (onGpu) {
      expect(performance.now() - start).toBeGreaterThan(200);
      expect(ticks).toBeGreaterThan(5);
    }
    x.dispose();
    hog.dispose();
  });

  it("tensors may be disposed while a collective uses them", () => {
    const hog = new Hog();
    torch.scope(() => {
      const source = torch.arange(elements, { dtype: "float32", device });
      const expected = source.clone();
      const outputs = Array.from({ length: 4 }, () => ones(elements));
      hog.work(300);
      const works = outputs.map((output) => {
        const input = source.clone();
        const work = world.group.allGather(output, input);
        input.dispose(); // its memory must not be given to the next one before it was read
        torch.full([elements], -1, { device }).dispose();
        return work;
      });
      for (const work of works) work.wait();
      for (const output of outputs) expect(output.equal(expected)).toBe(true);
    });
    hog.dispose();
  });
});

const config = presetConfig("tiny", { vocabSize: 128, numLayers: 4 });
const decoder = (on: string) => new Decoder(config, { device: on, generator: new torch.Generator({ seed: 3 }) });

/** A loss with attention, norms and the head's chunks in it. */
function lossOf(model: Decoder): Tensor {
  const length = 32;
  const data = {
    seqLen: length,
    numSamples: 8,
    sample: (i: number) => ({ tokens: Int32Array.from({ length }, (_, t) => 8 + ((i * 5 + t * 3) % 100)) }),
  };
  const [planned] = planStages(
    [autoregressive({ name: "ar", data, globalBatchSize: 4, steps: 2, lr: 1e-3, precision: "float32" })],
    0,
    config,
  );
  const batch = planned.loader.batchAt(0, 4);
  const context = { seed: 0, stage: 0, step: 0, steps: 2, device: model.device, state: {}, gradNorm: undefined };
  return planned.stage.objective(model, batch, context).loss;
}

describe("sharded over the world", () => {
  it.each([true, false])("gradients are the CPU's (gathered parameters are given back: %s)", (reshardAfterForward) => {
    const [here, there] = [decoder(device), decoder("cpu")];
    const parallel = new DataParallel(here, here.layers, { shard: world.group, replicate: null, reshardAfterForward });
    torch.scope(() => {
      lossOf(there).backward();
      for (const isLast of [false, true]) {
        parallel.backward(lossOf(here), { isLast });
        there.parameters(); // the second micro-batch is the first one again
      }
      parallel.finish();
      const expected = new Map(there.namedParameters());
      for (const { name, tensor } of parallel.local()) {
        const whole = expected.get(name)?.grad as Tensor;
        expect(relativeError(tensor.grad as Tensor, whole.mul(2)), name).toBeLessThan(2e-4);
      }
    });
    parallel.dispose();
    here.dispose();
    there.dispose();
  });

  it("memory between steps is that of the shards, and the host waits for nothing", () => {
    const before = memory.allocated();
    const model = decoder(device);
    const whole = memory.allocated() - before;
    const parallel = new DataParallel(model, model.layers, { shard: world.group, replicate: null });
    const optimizer = new AdamW(model.namedParameters());
    const step = () => {
      torch.scope(() => parallel.backward(lossOf(model), { isLast: true }));
      parallel.finish();
      optimizer.step(1e-3);
      optimizer.zeroGrad();
    };
    const held: number[] = [];
    for (let i = 0; i < 6; i++) {
      step();
      synchronize();
      held.push(memory.allocated() - before);
    }
    expect(new Set(held.slice(2)).size).toBe(1);
    // Weights and two moments; what was gathered is gone. The allocator rounds each tensor up to 512 bytes.
    if (onGpu) expect(held[5]).toBeLessThan(3.2 * whole + 512 * 3 * model.parameters().length);
    const hog = new Hog();
    step();
    synchronize();
    hog.work(1000);
    const waited = communication.waitSeconds;
    const start = performance.now();
    step();
    const host = performance.now() - start;
    expect(host).toBeLessThan(500);
    record("host time of a sharded step behind a second of other work", `${host.toFixed(1)} ms`);
    if (onGpu) expect(communication.waitSeconds - waited).toBeLessThan(0.1);
    synchronize();
    hog.dispose();
    optimizer.dispose();
    parallel.dispose();
    model.dispose();
  });
});

describe("a parallel model of one", () => {
  const length = 48;
  const data = {
    seqLen: length,
    numSamples: 16,
    sample: (i: number) => ({ tokens: Int32Array.from({ length }, (_, t) => 8 + ((i * 7 + t * 3) % 100)) }),
  };

  it.each<[string, ParallelOptions]>([
    ["whole", { shard: 1 }],
    ["all layers checkpointed", { shard: 1, activationCheckpointing: "full" }],
  ])("%s: steps of the CPU without any", async (_, options) => {
    const results = [];
    for (const on of [device, "cpu"]) {
      const model = decoder(on);
      const laid = await ParallelModel.parallelize(
        model,
        parallelSchema.parse(on === device ? options : {}),
        on === device ? world : undefined,
      );
      const stage = blockDiffusion({ name: "cpt", data, globalBatchSize: 4, steps: 3, lr: 1e-3, precision: "float32" });
      const [planned] = planStages([stage], 0, config);
      const optimizer = new AdamW(model.namedParameters(), { eps: 1e-3 });
      const trainer = new Trainer(planned, laid, optimizer, {}, 0);
      for (let step = 0; step < 3; step++) {
        const pending = await trainer.forwardBackward({ step, steps: 3, position: 4 * step });
        results.push(await trainer.update(pending, await laid.exchange("a step", pending.report)));
      }
      trainer.close();
      optimizer.dispose();
      await laid.dispose();
      model.dispose();
    }
    for (const [i, here] of results.slice(0, 3).entries()) {
      const there = results[i + 3];
      expect(Math.abs(here.loss / there.loss - 1)).toBeLessThan(1e-4);
      expect(Math.abs(here.gradNorm / there.gradNorm - 1)).toBeLessThan(1e-3);
      expect(here.perRank).toHaveLength(1);
    }
  });
});

const numDevices = onGpu ? torch.cuda.deviceCount() : 2;
describe.runIf(numDevices >= 2)("a run on two devices is that of one process on the CPU", () => {
  it.each<[string, ParallelOptions]>([
    ["2 replicas", {}],
    ["2 shards", { shard: 2 }],
    [
      "2 shards, layers checkpointed, gathered parameters kept",
      { shard: 2, activationCheckpointing: "full", reshardAfterForward: false },
    ],
    ["heads and features on 2", { tensor: 2 }],
    ["sequences on 2", { context: 2 }],
  ])("%s", async (_, parallel) => {
    const reference = await alone({ gradientAccumulationSteps: 2 });
    const out = temporaryFolder();
    const order = { run: { outputDir: out, sinks: [], checkpointEvery: {}, parallel } };
    const env = { DIFFCODER_TEST_BACKEND: backend };
    const ranks = await runRanks<{ events: TrainEvent[] }>("train.ts", {
      size: 2,
      args: [JSON.stringify(order)],
      env,
      timeout: 200,
    });
    for (const { events } of ranks) expectSame(events, reference.events, 1e-4);
    expectClose(await finalWeights(out), reference.weights, 1e-3);
  });
});
