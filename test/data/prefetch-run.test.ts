import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it, vi } from "vitest";
import type { DataWorkers } from "../../lib/data/index.js";
import { Loader, prepareSftData } from "../../lib/data/index.js";
import { autoregressive, parseRecipe, type Stage } from "../../lib/train/index.js";
import { bytesOf, collect, repeatable, stepsOf, tinyModel } from "../train/support.js";
import { temporaryFolder, thrownBy, tokenizer, writeTree } from "./helpers.js";
import { BEATS, ModuleDataset, READ, sharedMemory } from "./module-dataset.js";

const stageOf = (shared: Int32Array, overrides: object = {}): Stage =>
  autoregressive({
    name: "one",
    data: new ModuleDataset(shared),
    steps: 40,
    globalBatchSize: 5,
    lr: 1e-2,
    ...overrides,
  });

/** What a run leaves, but for its clock, and how many samples threads read. */
async function outcome(dataWorkers: DataWorkers) {
  const shared = sharedMemory();
  const model = tinyModel();
  // Threads start while the first steps are taken: here the second one waits for them.
  const run = async (): Promise<Record<string, number>> => {
    if (dataWorkers !== "auto" && dataWorkers > 0) await vi.waitUntil(() => shared[BEATS] > 0, { timeout: 200_000 });
    return {};
  };
  const stages = [
    stageOf(shared, { evaluate: { every: 1, run } }),
    stageOf(shared, { name: "two", steps: 10, gradientAccumulationSteps: 5 }),
  ];
  const events = await collect(stages, { model, dataWorkers, seed: 4 });
  return { weights: bytesOf(model), steps: stepsOf(events).map(repeatable), read: shared[READ] };
}

describe("dataWorkers", () => {
  it("changes nothing but who reads", async () => {
    const alone = await outcome(0);
    expect(alone.read).toBe(0);
    for (const workers of [2, "auto"] as const) {
      const { weights, steps, read } = await outcome(workers);
      if (workers === "auto")
        expect(read).toBe(0); // not worth a thread
      else expect(read).toBeGreaterThan(50);
      expect(weights).toBe(alone.weights);
      expect(steps).toEqual(alone.steps);
    }
  });

  it("goes on from a checkpoint exactly, with another number of threads", async () => {
    const out = temporaryFolder();
    const stages = () => [stageOf(sharedMemory(), { globalBatchSize: 6, steps: 24 })];
    const whole = tinyModel();
    await collect(stages(), { model: whole, dataWorkers: 0 });
    const first = tinyModel();
    await collect(
      stages(),
      { model: first, outputDir: out, dataWorkers: 1, sinks: [] },
      (e) => e.type === "step" && e.step === 9,
    );
    const second = tinyModel({ seed: 2 });
    const events = await collect(stages(), { model: second, outputDir: out, resume: true, dataWorkers: 0, sinks: [] });
    expect(stepsOf(events)).toHaveLength(15);
    expect(bytesOf(second)).toBe(bytesOf(whole));
  });

  it("ends its threads with the run: at its end, when it is left, aborted or fails", async () => {
    const shared = sharedMemory();
    const endless = () => [stageOf(shared, { steps: 100_000 })];
    const runs: ((stop: () => boolean) => Promise<unknown>)[] = [
      (stop) => collect(endless(), { model: tinyModel(), dataWorkers: 1 }, stop),
      (stop) => {
        const abort = new AbortController();
        const options = { model: tinyModel(), dataWorkers: 1, signal: abort.signal };
        return collect(endless(), options, () => {
          if (stop()) abort.abort();
          return false;
        });
      },
      async (stop) => {
        const failing = collect(
          [stageOf(shared, { steps: 100_000, evaluate: { every: 1, run: () => (stop() ? fail() : {}) } })],
          { model: tinyModel(), dataWorkers: 1 },
        );
        await expect(failing).rejects.toThrow("an evaluation fails");
      },
    ];
    for (const run of runs) {
      const [read, beats] = [shared[READ], shared[BEATS]];
      await run(() => shared[READ] > read + 50 && shared[BEATS] > beats);
      await vi.waitUntil(
        async () => {
          const before = shared[BEATS];
          await sleep(50);
          return shared[BEATS] === before;
        },
        { timeout: 3000, interval: 10 },
      );
    }
  });

  it("is an option of runs and recipes", async () => {
    const run = (dataWorkers: unknown) =>
      collect([stageOf(sharedMemory(), { steps: 1 })], { model: tinyModel(), dataWorkers: dataWorkers as number });
    await expect(run(-1)).rejects.toThrow(/dataWorkers/);
    await expect(run("many")).rejects.toThrow(/dataWorkers/);
    const recipe = (value: string) =>
      `model: tiny\ndata: { paths: [.], seqLen: 8 }\ndataWorkers: ${value}\n` +
      "stages: [{ type: autoregressive, name: a, steps: 1, lr: 1e-3 }]";
    expect(parseRecipe(recipe("2"), "a.yaml").dataWorkers).toBe(2);
    expect(thrownBy(() => parseRecipe(recipe("0.5"), "a.yaml"))).toMatch(/dataWorkers/);
  });

  it("serves prepared fine-tuning data, too", async () => {
    const chat = JSON.stringify({ prompt: "a", answer: "b" });
    const folder = writeTree(temporaryFolder(), { "a.jsonl": `${chat}\n${chat}\n` });
    const { loader } = await prepareSftData({ paths: [folder], seqLen: 16 }, tokenizer);
    expect(loader).toBeInstanceOf(Loader);
    expect(loader.describe()?.dataset.kind).toBe("sft");
  });
});

function fail(): never {
  throw new Error("an evaluation fails");
}
