import { afterAll, describe, expect, it } from "vitest";
import type { AttentionCase, ObjectiveCase } from "./children/jobs.js";
import { Ranks } from "./ranks.js";

const ranks = new Ranks(4);
afterAll(() => ranks.stop());

const SIZES = [2, 3, 4];
const ORDERS = ["head-tail", "contiguous"] as const;

async function attentionErrors(size: number, c: AttentionCase): Promise<[out: number, gradients: number]> {
  const results = await ranks.run(size, "attention", c);
  return [Math.max(...results.map(({ out }) => out)), Math.max(...results.map(({ gradients }) => gradients))];
}

describe.each(SIZES)("ringAttention over %i ranks is attention over the whole sequence, in float64", (size) => {
  describe.each(ORDERS)("%s", (order) => {
    it.each([1, 4, 32])("block diffusion, B %i: outputs and gradients", async (blockSize) => {
      for (const onlyNoisy of [false, true]) {
        // Whole blocks for every piece, and a length that no number divides.
        for (const length of [2 * size * Math.max(blockSize, 8), 101]) {
          const [out, gradients] = await attentionErrors(size, { batch: 2, length, blockSize, onlyNoisy, order });
          expect(out, `L ${length}, only noisy ${onlyNoisy}`).toBeLessThan(1e-12);
          expect(gradients, `L ${length}, only noisy ${onlyNoisy}`).toBeLessThan(1e-12);
        }
      }
    });

    it("causal: outputs and gradients", async () => {
      for (const length of [16 * size, 101, 3]) {
        const [out, gradients] = await attentionErrors(size, { batch: 2, length, order, scale: 0.3 });
        expect(Math.max(out, gradients), `L ${length}`).toBeLessThan(1e-12);
      }
    });

    it("isolated documents, whose blocks lie otherwise in every row", async () => {
      const documents = [0, 3, 50, 51, 77, 77 + 20, 154, 154 + 7, 154 + 70, 231];
      for (const blockSize of [undefined, 1, 4, 32]) {
        const c = { batch: 3, length: 77, documents, blockSize, order };
        const [out, gradients] = await attentionErrors(size, c);
        expect(Math.max(out, gradients), `B ${blockSize}`).toBeLessThan(1e-12);
      }
    });
  });

  it("to what float32 and bfloat16 hold", async () => {
    for (const [dtype, tolerance] of [["float32", 3e-6] as const, ["bfloat16", 1e-2] as const]) {
      const errors = await attentionErrors(size, { batch: 1, length: 96, blockSize: 4, dtype });
      expect(Math.max(...errors), dtype).toBeLessThan(tolerance);
    }
  });
});

/** In float64 to its precision; in float32 to what sums in another order lose, as a share of the largest gradient. */
async function compareObjective(size: number, c: ObjectiveCase): Promise<void> {
  await compareIn(size, { ...c, dtype: "float64" }, 1e-12);
  await compareIn(size, { ...c, dtype: "float32" }, 3e-6);
}

async function compareIn(size: number, c: ObjectiveCase, tolerance: number): Promise<void> {
  const results = await ranks.run(size, "objective", c);
  for (const { loss, metrics, gradients, restored } of results) {
    expect(loss, "loss").toBeLessThan(tolerance);
    expect(metrics, "metrics").toBeLessThan(tolerance);
    expect(gradients, "gradients").toBeLessThan(tolerance);
    expect(restored).toBe(true);
  }
  // Parts of one sum: no rank has it all.
  const parts = results.map(({ own }) => own);
  const sum = parts.reduce((a, b) => a + b, 0);
  expect(Math.max(...parts)).toBeLessThan(0.8 * sum);
}

describe.each(SIZES)("contextParallel over %i ranks: loss, metrics and gradients of a process alone", (size) => {
  it.each(ORDERS)("block diffusion, %s", async (order) => {
    for (const blockSize of [1, 4, 32]) {
      await compareObjective(size, { kind: "block-diffusion", length: 48, blockSize, order });
    }
  });

  it("block diffusion shifted, whose clean positions predict too", async () => {
    await compareObjective(size, { kind: "block-diffusion", length: 48, blockSize: 4, shift: true });
  });

  it("autoregressive", async () => {
    await compareObjective(size, { kind: "autoregressive", length: 50 });
  });

  it("isolated documents", async () => {
    const documents = [0, 3, 29, 45, 45 + 31, 90];
    for (const kind of ["block-diffusion", "autoregressive"] as const) {
      for (const shift of kind === "autoregressive" ? [false] : [false, true]) {
        await compareObjective(size, { kind, length: 45, documents, blockSize: 4, shift });
      }
    }
  });

  it("under autocast", async () => {
    await compareIn(size, { kind: "block-diffusion", length: 48, blockSize: 4, autocast: true }, 3e-2);
  });
});

describe("contextParallel", () => {
  it("lets ranks without a wanted row take part", async () => {
    // Answers in the first tokens only: all of them lie on rank 0.
    const lossMask = Array.from({ length: 64 }, (_, i) => (i > 0 && i < 6 ? 1 : 0));
    const c = { kind: "autoregressive" as const, length: 64, rows: 1, lossMask, order: "contiguous" as const };
    const results = await ranks.run(3, "objective", c);
    expect(results[1].own).toBe(0);
    expect(results[2].own).toBe(0);
    for (const { loss, gradients } of results) expect(Math.max(loss, gradients)).toBeLessThan(1e-6);
  });

  it("runs attention that is not one of the patterns whole on every rank, and divides its loss", async () => {
    await compareObjective(3, { kind: "own", length: 16 });
  });

  it("refuses what does not fit the plan", async () => {
    for (const errors of await ranks.run(2, "refusals", null)) {
      expect(errors[0]).toMatch(/^DISTRIBUTED_ARGUMENT: ids have 9 positions, but a causal plan of length 8 has 8/);
      expect(errors[1]).toMatch(/^DISTRIBUTED_ARGUMENT: documents must run from 0 to 16/);
      expect(errors[2]).toMatch(/^DISTRIBUTED_ARGUMENT: crossEntropy: 3 targets for 2 selected hidden states/);
    }
  });

  it("leaves no tensor behind", async () => {
    expect(await ranks.run(3, "leftovers", null)).toEqual([0, 0, 0]);
  });
});
