import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { groupedName, METRICS, metricInfo } from "../../../lib/train/metrics.js";
import { meshText, runSettings } from "../../../lib/train/sinks/summary.js";
import { collect, stepsOf, tinyModel, tinyStages } from "../support.js";

describe("metrics", () => {
  it("are all in docs/metrics.md, with group and unit, and nothing else is", () => {
    const text = readFileSync(new URL("../../../docs/metrics.md", import.meta.url), "utf8");
    const rows = [...text.matchAll(/^\| `(\w+)` +\| (\w+) +\| ([\w ]+?) +\|/gm)].map(([, ...cells]) => cells);
    expect(rows).toEqual(METRICS.map(({ name, group, unit }) => [name, group, unit]));
  });

  it("of the library's own objectives are all known", async () => {
    using model = tinyModel();
    const steps = stepsOf(await collect(tinyStages(), { model }));
    const names = new Set(steps.flatMap(({ metrics }) => Object.keys(metrics)));
    const known = METRICS.map(({ name }) => name);
    expect([...names].filter((name) => !known.includes(name))).toEqual([]);
  });

  it("have a group", () => {
    expect(groupedName("mfu")).toBe("speed/mfu");
    expect(groupedName("my_own")).toBe("train/my_own");
    expect(groupedName("mine/own")).toBe("mine/own");
    expect(metricInfo("my_own")).toMatchObject({ unit: "number", title: "my own" });
  });
});

describe("a run's settings", () => {
  const parallel = { replicate: 2, shard: 4, context: 1, tensor: 1, worldSize: 8, backend: "nccl" };

  it("are flat", () => {
    const stage = { name: "cpt", kind: "k", steps: null, globalBatchSize: 4, seqLen: 16, positionsPerToken: 2 };
    const run = { parameters: 1, model: "m", device: "cpu", seed: 7, stages: [stage], versions: { node: "20" } };
    const flat = runSettings({ ...run, parallel, startedAt: "", outputDir: "o" });
    expect(flat).toMatchObject({ seed: 7, "stages/cpt/seqLen": 16, "versions/node": "20", "parallel/shard": 4 });
    expect(Object.keys(flat)).not.toContain("stages/cpt/steps");
  });

  it("name the dimensions of the mesh that are in use", () => {
    expect(meshText(parallel)).toBe("replicate 2 x shard 4, 8 ranks (nccl)");
    expect(meshText({ ...parallel, replicate: 1, shard: 1, worldSize: 1, backend: "gloo" })).toBe("1 rank (gloo)");
  });
});
