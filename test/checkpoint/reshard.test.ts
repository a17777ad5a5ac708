import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { loadOptimizerSlices, loadWeightSlices, StableDiffCoder } from "../../lib/checkpoint/index.js";
import { CheckpointTensors } from "../../lib/checkpoint/tensors.js";
import { coverProblem } from "../../lib/distributed/tensor-slice.js";
import * as torch from "../../lib/torch/index.js";
import { cutsOf } from "./grids.js";
import {
  bitsOf,
  byRows,
  type Cut,
  contentsOf,
  localTensors,
  restore,
  savedBy,
  saveTogether,
  storesOf,
  temporaryFolder,
  trained,
} from "./support.js";

const world = fc.integer({ min: 1, max: 6 }).chain((size) => fc.tuple(fc.constant(size), cutsOf(size)));

describe("a checkpoint of several processes", () => {
  it("loads into any other number of them, however the tensors were and are cut", async () => {
    const whole = trained();
    const state = Object.entries(whole.optimizer.stateDict().tensors);
    await fc.assert(
      fc.asyncProperty(world, world, async ([before, cut], [after, other]) => {
        const { found } = await savedBy(before, whole, cut);
        expect(found.worldSize).toBe(before);
        for (let rank = 0; rank < after; rank++) {
          await torch.scope(async () => {
            const weights = localTensors(whole.model.namedParameters(), other, rank, Number.NaN);
            await loadWeightSlices(weights, found.path);
            expect(bits(weights)).toEqual(bits(localTensors(whole.model.namedParameters(), other, rank)));
            const slots = localTensors(state, other, rank, Number.NaN);
            expect(found.optimizerStep).toBe(7);
            await loadOptimizerSlices(slots, found.path);
            expect(bits(slots)).toEqual(bits(localTensors(state, other, rank)));
          });
        }
      }),
      { numRuns: 25 },
    );
  });

  const bits = (tensors: { name: string; tensor: torch.Tensor }[]) =>
    bitsOf(tensors.map(({ name, tensor }) => [name, tensor]));

  it("loads as a model, and into a process that is alone", async () => {
    const whole = trained();
    const { found } = await savedBy(3, whole);
    expect(readdirSync(found.path).sort()).toEqual([
      "config.json",
      "generation_config.json",
      "manifest.json",
      "shard-00000-of-00003.safetensors",
      "shard-00001-of-00003.safetensors",
      "shard-00002-of-00003.safetensors",
      "trainer.json",
    ]);
    using loaded = await StableDiffCoder.fromPretrained(found.path);
    expect(bitsOf(loaded.model.namedParameters())).toEqual(bitsOf(whole.model.namedParameters()));
    const other = trained(2);
    await restore(found, other);
    expect(bitsOf(other.model.namedParameters())).toEqual(bitsOf(whole.model.namedParameters()));
    const [a, b] = [other, whole].map(({ optimizer }) => optimizer.stateDict());
    expect(a.step).toBe(7);
    expect(bitsOf(Object.entries(a.tensors))).toEqual(bitsOf(Object.entries(b.tensors)));
  });

  it("of one process loads into several", async () => {
    const whole = trained();
    const { found } = await savedBy(1, whole);
    expect(readdirSync(found.path)).toContain("model.safetensors");
    await torch.scope(async () => {
      for (const rank of [0, 1, 2, 3]) {
        const weights = localTensors(whole.model.namedParameters(), byRows(4), rank, 0);
        await loadWeightSlices(weights, found.path);
        expect(bits(weights)).toEqual(bits(localTensors(whole.model.namedParameters(), byRows(4), rank)));
      }
    });
  });

  it("converts dtypes on the way in", async () => {
    const whole = trained();
    const { found } = await savedBy(2, whole);
    await torch.scope(async () => {
      const weights = localTensors(whole.model.namedParameters(), byRows(3), 1);
      const half = weights.map((weight) => ({
        ...weight,
        tensor: torch.zeros(weight.slice.size, { dtype: "bfloat16" }),
      }));
      await loadWeightSlices(half, found.path);
      const rounded = weights.map((weight) => ({ ...weight, tensor: weight.tensor.bfloat16() }));
      expect(bits(half)).toEqual(bits(rounded));
    });
  });

  it("reads no file that holds nothing it wants", async () => {
    const whole = trained();
    const { found } = await savedBy(4, whole);
    using stored = new CheckpointTensors(found.path, ["model"]);
    const opened: string[] = [];
    const { get } = torch.SafetensorsFile.prototype;
    torch.SafetensorsFile.prototype.get = function (name) {
      opened.push(this.path.slice(-"00000-of-00004.safetensors".length));
      return get.call(this, name);
    };
    try {
      const shape = [48, 16];
      torch.scope(() =>
        stored.read(
          "model",
          "model.embed_tokens.weight",
          { shape, offset: [13, 0], size: [10, 16] },
          torch.zeros([10, 16]),
        ),
      );
    } finally {
      torch.SafetensorsFile.prototype.get = get;
    }
    expect(opened).toEqual(["00001-of-00004.safetensors"]);
  });

  it("has a manifest that lists every tensor once, and every file with its hash", async () => {
    const { found } = await savedBy(3, trained());
    const manifest = JSON.parse(readFileSync(join(found.path, "manifest.json"), "utf8"));
    expect(manifest).toMatchObject({ format: 2, world: 3 });
    expect(Object.keys(manifest.files).sort()).toEqual(
      readdirSync(found.path)
        .filter((name) => name !== "manifest.json")
        .sort(),
    );
    const embedding = manifest.tensors["model/model.embed_tokens.weight"];
    expect(embedding).toEqual({
      dtype: "float32",
      shape: [48, 16],
      slices: [0, 1, 2].map((rank) => [rank, [16 * rank, 0], [16, 16]]),
    });
    expect(Object.keys(manifest.tensors)).toContain("optimizer/layers.1.mlp.upProj.weight.expAvgSq");
    for (const { shape, slices } of Object.values<typeof embedding>(manifest.tensors)) {
      const cells = slices.map(([, offset, size]: [number, number[], number[]]) => ({ shape, offset, size }));
      expect(coverProblem(shape, cells)).toBeUndefined();
    }
  });
});

describe("slices that do not fit together are refused", () => {
  const failing = async (cut: Cut, size = 2) => {
    const run = temporaryFolder();
    const saved = torch.scope(async () =>
      saveTogether(storesOf(run, size), "step-000001", contentsOf(trained(), size, cut)),
    );
    await expect(saved).rejects.toMatchObject({ name: "CheckpointError", code: "CHECKPOINT_WRITE" });
    expect(readdirSync(join(run, "checkpoints"))).toEqual([]);
    return expect(saved).rejects;
  };
  const [rows, lone] = [byRows(2), byRows(1)];

  it("when nobody owns a part", async () => {
    const cut: Cut = (name, shape, rank) => ({
      ...rows(name, shape, rank),
      owned: rank === 0 || name !== "norm.weight",
    });
    await (await failing(cut)).toThrow(/model\.norm\.weight: 8 of its 16 elements are in no slice/);
  });

  it("when two own the same part", async () => {
    const cut: Cut = (name, shape, rank) => (name === "norm.weight" ? lone(name, shape, 0) : rows(name, shape, rank));
    await (await failing(cut)).toThrow(/model\.norm\.weight: slices \[0:16\] and \[0:16\] overlap/);
  });

  it("when one process has but a part", async () => {
    await (await failing((name, shape) => rows(name, shape, 0), 1)).toThrow(/is only a part, but no other process/);
  });
});

describe("tensors that do not fit the checkpoint", () => {
  it("are listed, and nothing is copied", async () => {
    const whole = trained();
    const { found } = await savedBy(2, whole);
    await torch.scope(async () => {
      const weights = localTensors(whole.model.namedParameters(), byRows(1), 0, 0);
      weights[0] = { ...weights[0], slice: { ...weights[0].slice, shape: [50, 16] } };
      weights[1] = { ...weights[1], name: "layers.9.other" };
      await expect(loadWeightSlices(weights, found.path)).rejects.toMatchObject({
        code: "CHECKPOINT_MISMATCH",
        message: expect.stringMatching(
          /embed_tokens\.weight in .* is \[48,16\], the config requires \[50,16\]\n.*layers\.9\.other is missing[\s\S]*is not in the model/,
        ),
      });
      for (const { tensor } of weights) expect(Number(tensor.abs().sum().item())).toBe(0);
      const { tensors } = whole.optimizer.stateDict();
      const slots = localTensors(Object.entries(tensors).slice(1), byRows(1), 0, 0);
      await expect(loadOptimizerSlices(slots, found.path)).rejects.toMatchObject({
        code: "CHECKPOINT_MISMATCH",
        message: expect.stringMatching(/expAvg.* is not in the optimizer/),
      });
    });
  });
});
