import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { RunOptions, TrainEvent } from "../../lib/train/index.js";
import type { TrainOrder } from "./children/train.js";
import { alone, expectClose, expectSame, finalWeights, stepsOf, temporaryFolder, train } from "./runs.js";
import { runRanks } from "./support.js";

const BATCH = 12; // shared out among 2, 3 and 4

/** Goes on with a run until one of its processes is asked to stop, or to its end. */
async function goOn(
  out: string,
  size: number,
  parallel: RunOptions["parallel"],
  stopAt?: number,
): Promise<TrainEvent[]> {
  const order: TrainOrder = {
    globalBatchSize: BATCH,
    model: { seed: stopAt ?? 99 }, // only the first process's first weights count
    run: { outputDir: out, sinks: [], resume: true, checkpointEvery: {}, parallel },
    ...(stopAt !== undefined && { fault: { rank: size - 1, step: stopAt, kind: "abort" } }),
  };
  const ranks = await runRanks<{ events: TrainEvent[] }>("train.ts", { size, args: [JSON.stringify(order)] });
  for (const { events } of ranks) expect(events.at(-1)?.type).toBe(stopAt === undefined ? "done" : "aborted");
  return ranks[0].events;
}

describe("a run that is stopped", () => {
  it("goes on with other numbers of processes and other meshes, along the same curve", async () => {
    const reference = await alone({ globalBatchSize: BATCH });
    const out = temporaryFolder();
    const first: TrainOrder = {
      globalBatchSize: BATCH,
      run: { outputDir: out, sinks: [], checkpointEvery: {}, parallel: { replicate: 2, shard: 2 } },
      fault: { rank: 3, step: 4, kind: "abort" },
    };
    const [begun] = await runRanks<{ events: TrainEvent[] }>("train.ts", { size: 4, args: [JSON.stringify(first)] });
    const events = [...begun.events, ...(await goOn(out, 2, { tensor: 2 }, 9)), ...(await goOn(out, 3, { shard: 3 }))];
    expect(events.filter(({ type }) => type === "aborted")).toHaveLength(2);
    expectSame(events, reference.events);
    expectClose(await finalWeights(out), reference.weights);
  });

  it("goes on bit for bit on the same mesh", async () => {
    const parallel = { shard: 2 };
    const whole = await train(2, { globalBatchSize: BATCH, run: { parallel } });
    const out = temporaryFolder();
    const first: TrainOrder = {
      globalBatchSize: BATCH,
      run: { outputDir: out, sinks: [], checkpointEvery: {}, parallel },
      fault: { rank: 0, step: 8, kind: "abort" },
    };
    const [begun] = await runRanks<{ events: TrainEvent[] }>("train.ts", { size: 2, args: [JSON.stringify(first)] });
    const events = [...begun.events, ...(await goOn(out, 2, parallel))];
    const losses = (list: readonly TrainEvent[]) => stepsOf(list).map(({ metrics }) => metrics.loss);
    expect(losses(events)).toEqual(losses(whole.ranks[0]));
    expect(await finalWeights(out)).toEqual(whole.weights);
  });

  it("leaves checkpoints in Hugging Face layout where every process holds the whole model", async () => {
    const { out } = await train(2, { globalBatchSize: BATCH, run: { parallel: { context: 2 } } });
    const files = readdirSync(join(out, "checkpoints", "final"));
    expect(files).toContain("model.safetensors");
    expect(files).toContain("optimizer.state");
    expect(files.some((name) => name.startsWith("shard-"))).toBe(false);
  });

  it("passes over a shard with a flipped bit, and goes on from the checkpoint before", async () => {
    const reference = await alone({ globalBatchSize: BATCH });
    const out = temporaryFolder();
    const first: TrainOrder = {
      globalBatchSize: BATCH,
      run: { outputDir: out, sinks: [], checkpointEvery: { steps: 2 }, asyncCheckpoint: false, parallel: { shard: 2 } },
      fault: { rank: 0, step: 8, kind: "abort" },
    };
    await runRanks("train.ts", { size: 2, args: [JSON.stringify(first)] });
    const names = readdirSync(join(out, "checkpoints")).sort();
    const newest = join(out, "checkpoints", names.at(-1) as string);
    const shard = join(newest, readdirSync(newest).find((name) => name.startsWith("shard-00001")) as string);
    const bytes = readFileSync(shard);
    bytes[bytes.length - 5] ^= 1;
    writeFileSync(shard, bytes);
    const events = await goOn(out, 2, {});
    expect(events[0]).toMatchObject({ type: "start", globalStep: 8 });
    const warning = events.find(({ type }) => type === "warning");
    expect(warning).toMatchObject({ code: "CHECKPOINT_CORRUPT" });
    expect(JSON.stringify(warning)).toContain("shard-00001");
    expectClose(await finalWeights(out), reference.weights);
  });
});
