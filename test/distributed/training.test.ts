import { beforeAll, describe, expect, it } from "vitest";
import type { RunOptions } from "../../lib/train/index.js";
import { alone, expectClose, expectSame, stepsOf, train } from "./runs.js";

/** Of the middle stage: with the last one it is 20 of block diffusion, after 6 autoregressive ones. */
const STEPS = 16;

let whole: Awaited<ReturnType<typeof alone>>;
beforeAll(async () => {
  whole = await alone({ steps: STEPS, gradientAccumulationSteps: 4 });
});

describe("a run by several processes equals that of one with as many micro-batches", () => {
  it.each<[string, number, RunOptions["parallel"]]>([
    ["4 replicas", 4, {}],
    ["4 shards", 4, { shard: 4 }],
    ["heads and features on 2", 2, { tensor: 2 }],
    ["sequences on 2", 2, { context: 2 }],
    ["2 shards of heads and features on 2", 4, { shard: 2, tensor: 2, activationCheckpointing: 2 }],
    ["2 shards of sequences on 2", 4, { shard: 2, context: 2 }],
    ["2 replicas of 2 shards", 4, { replicate: 2, shard: 2 }],
    ["2 replicas of 2 shards of heads and features on 2", 8, { replicate: 2, shard: 2, tensor: 2 }],
    [
      "2 shards that stay gathered, all layers checkpointed",
      2,
      { shard: 2, reshardAfterForward: false, activationCheckpointing: "full" },
    ],
    ["3 replicas with shares of 1, 1 and 2 sequences, buckets of a few parameters", 3, { bucketMegabytes: 0.001 }],
  ])("%s", async (_, size, parallel) => {
    const { ranks, weights } = await train(size, { steps: STEPS, run: { parallel } });
    for (const events of ranks) expectSame(events, whole.events);
    expectClose(weights, whole.weights);
    const [start] = ranks[0];
    expect(start).toMatchObject({ type: "start", run: { parallel: { worldSize: size, backend: "gloo" } } });
    expect(stepsOf(ranks[0])[0].perRank).toHaveLength(size);
    expect(stepsOf(ranks[0])[0].metrics).toMatchObject({ ranks: size });
  });

  it.each<[string, number, RunOptions["parallel"]]>([
    ["heads on 2, with norms that each sees a part of", 2, { tensor: 2 }],
    ["2 shards of heads on 2, with such norms", 4, { shard: 2, tensor: 2, activationCheckpointing: 2 }],
  ])("%s", async (_, size, parallel) => {
    const order = { steps: STEPS, model: { architecture: "Qwen3ForCausalLM" } } as const;
    const reference = await alone({ ...order, gradientAccumulationSteps: 4 });
    const { ranks, weights } = await train(size, { ...order, run: { parallel } });
    for (const events of ranks) expectSame(events, reference.events);
    expectClose(weights, reference.weights);
  });

  it("with accumulation in each of them", async () => {
    const reference = await alone({ globalBatchSize: 8, gradientAccumulationSteps: 8 });
    for (const parallel of [{}, { shard: 2 }]) {
      const { ranks, weights } = await train(2, {
        globalBatchSize: 8,
        gradientAccumulationSteps: 4,
        run: { parallel },
      });
      expectSame(ranks[0], reference.events);
      expectClose(weights, reference.weights);
    }
  });
});
