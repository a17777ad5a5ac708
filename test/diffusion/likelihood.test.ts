import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  arBitsPerByte,
  type Batch,
  type DiffusionBoundOptions,
  diffusionBound,
  diffusionTokenBounds,
} from "../../lib/diffusion/index.js";
import { allSubsets, randomCounts, randomTimes } from "../../lib/diffusion/likelihood-passes.js";
import type { Decoder } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import { cachedPlan, KeyValueCache } from "../reference/kv-cache.js";
import { UncachedForward } from "../reference/sequence-forward.js";
import { MASK, randomBatch, readJson, tinyModel } from "./fixture.js";

interface GoldenCase {
  blockSize: number;
  documents: number[];
  shift: boolean;
  tokens: number[];
  autoregressive: number;
  bound: number;
}

let model: Decoder;
beforeAll(async () => {
  model = await tinyModel();
});
afterAll(() => model.dispose());

const golden = readJson<GoldenCase[]>("likelihood");
const byteLength = (id: number) => (id % 3) + 1;

function batchOf(c: GoldenCase): Batch {
  return { indices: [0], tokens: Int32Array.from(c.tokens), batch: 1, seqLen: c.tokens.length, documents: c.documents };
}

describe("against transformers, every mask of every block a forward of its own", () => {
  for (const c of golden) {
    const options = { byteLength, blockSize: c.blockSize, shift: c.shift };
    const name = `B ${c.blockSize}${c.documents.length > 2 ? ", documents" : ""}${c.shift ? ", shift" : ""}`;

    it(`${name}: AR likelihood and exact bound to 1e-6`, async () => {
      const ar = await arBitsPerByte(model, [batchOf(c)], options);
      const bound = await diffusionBound(model, [batchOf(c)], { ...options, estimator: "exact" });
      expect(Math.abs(ar.nll / c.autoregressive - 1)).toBeLessThan(1e-6);
      expect(Math.abs(bound.nll / c.bound - 1)).toBeLessThan(1e-6);
      expect([ar.tokens, bound.tokens]).toEqual([16 - c.documents.length, 16 - c.documents.length]);
      expect(bound.standardError).toBe(0);
      const bytes = c.tokens.filter((_, i) => !c.documents.includes(i)).reduce((sum, id) => sum + byteLength(id), 0);
      expect([ar.bytes, bound.bytes]).toEqual([bytes, bytes]);
      expect(bound.bitsPerByte).toBeCloseTo(bound.nll / Math.LN2 / bytes, 12);
    });

    for (const estimator of ["count", "time"] as const) {
      it(`${name}: the ${estimator} estimate is within 5 of its standard errors`, async () => {
        const passes = estimator === "count" ? 100 : 400;
        const estimate = await diffusionBound(model, [batchOf(c)], {
          ...options,
          estimator,
          mcSamples: passes,
          seed: 5,
        });
        const exact = c.bound / Math.LN2 / estimate.bytes;
        expect(Math.abs(estimate.bitsPerByte - exact)).toBeLessThanOrEqual(5 * estimate.standardError + 1e-6 * exact);
        if (c.blockSize > 1) expect(estimate.standardError).toBeGreaterThan(0);
      });
    }
  }
});

describe("at B = 1", () => {
  it("the bound is the exact likelihood of left-to-right prediction with a mask in the query slot", async () => {
    const batch = randomBatch([4], 12);
    let nats = 0;
    using cache = KeyValueCache.for(model, { maxLength: 12 });
    torch.scope(() =>
      torch.noGrad(() => {
        for (let i = 0; i < 12; i++) {
          const ids = torch.tensor(Int32Array.of(MASK)).to("int64").view([1, 1]);
          const hidden = model.forward(ids, cachedPlan(cache, { length: 1, visibility: "causal" }));
          const logP = model.logits(hidden).logSoftmax(-1).toTypedArray() as Float32Array;
          if (i > 0) nats -= logP[batch.tokens[i]];
          // The true token goes into the cache instead of the mask.
          model.forward(
            torch.full([1, 1], batch.tokens[i], { dtype: "int64" }),
            cachedPlan(cache, { length: 1, visibility: "causal" }),
          );
          cache.advance(1);
        }
      }),
    );
    const bound = await diffusionBound(model, [batch], { byteLength, blockSize: 1, mcSamples: 2 });
    expect(Math.abs(bound.nll / nats - 1)).toBeLessThan(1e-6);
    expect(bound.standardError).toBeLessThan(1e-7);
  });

  it("with the shift it is the AR likelihood itself", async () => {
    const batch = randomBatch([4, 5], 12, { documents: [0, 7, 12, 24] });
    const ar = await arBitsPerByte(model, [batch], { byteLength });
    const bound = await diffusionBound(model, [batch], { byteLength, blockSize: 1, shift: true, mcSamples: 2 });
    expect(Math.abs(bound.nll / ar.nll - 1)).toBeLessThan(1e-6);
  });
});

describe("the estimate", () => {
  const run = (options: Partial<DiffusionBoundOptions>, batches = [randomBatch([1, 2], 24)]) =>
    diffusionBound(model, batches, { byteLength, ...options });

  it("is a pure function of seed and samples, whatever shares a batch", async () => {
    const together = await run({ seed: 3 });
    const apart = await run({ seed: 3 }, [randomBatch([1], 24), randomBatch([2], 24)]);
    expect(await run({ seed: 3 })).toEqual(together);
    expect(Math.abs(apart.nll / together.nll - 1)).toBeLessThan(1e-6);
    expect((await run({ seed: 4 })).nll).not.toBe(together.nll);
  });

  it("has a standard error that falls with the passes and honestly covers the truth", async () => {
    const { bitsPerByte: exact } = await run({ estimator: "exact" });
    const estimates = await Promise.all(Array.from({ length: 40 }, (_, seed) => run({ seed, mcSamples: 6 })));
    const z = estimates.map((e) => (e.bitsPerByte - exact) / e.standardError);
    // Unbiased: the mean of 40 estimates is within 5 of its own standard errors.
    const pooled = Math.sqrt(estimates.reduce((sum, e) => sum + e.standardError ** 2, 0)) / 40;
    const mean = estimates.reduce((sum, e) => sum + e.bitsPerByte, 0) / 40;
    expect(Math.abs(mean - exact)).toBeLessThan(5 * pooled);
    // Honest: t-distributed with about 10 degrees of freedom, so 8 of 40 beyond 2 would be p < 1e-3.
    expect(z.filter((x) => Math.abs(x) > 2).length).toBeLessThan(9);
    expect((await run({ mcSamples: 64 })).standardError).toBeLessThan(estimates[0].standardError);
  });

  it("the clipped schedule's forced token is kept out: mass is 1 per token", () => {
    const batch = randomBatch([1, 2, 3], 37, { documents: [0, 10, 37, 74, 111] });
    const options = { mcSamples: 400, seed: 1 };
    for (const [passes, tolerance] of [
      [[...allSubsets(batch, 4, MASK)], 1e-9],
      [[...randomCounts(batch, 4, MASK, options)], 0.05],
      [[...randomTimes(batch, 4, MASK, options)], 0.15],
    ] as const) {
      const mass = passes.map((pass) => pass.weights.reduce((a, b) => a + b, 0));
      const total = mass.reduce((a, b) => a + b, 0) / (tolerance < 1e-6 ? 1 : passes.length);
      expect(Math.abs(total / (111 - 4) - 1)).toBeLessThan(tolerance);
    }
  });

  it("refuses what it cannot estimate", async () => {
    await expect(run({ mcSamples: 1 })).rejects.toThrow(/mcSamples/);
    await expect(run({ estimator: "exact", blockSize: 13 })).rejects.toThrow(/2\^13/);
    await expect(run({ signal: AbortSignal.abort(new Error("enough")) })).rejects.toThrow("enough");
  });

  it("under bfloat16 autocast is close to float32", async () => {
    const exact = await run({ estimator: "exact" });
    const cast = await run({ estimator: "exact", autocast: "bfloat16" });
    expect(Math.abs(cast.nll / exact.nll - 1)).toBeLessThan(0.05);
  });
});

describe("token by token", () => {
  it.each(golden.filter(({ documents }) => documents.length === 2))(
    "B $blockSize: the values add up to the bound",
    async (c) => {
      const { blockSize, shift } = c;
      const tokens = Int32Array.from(c.tokens);
      const bounds = await diffusionTokenBounds(model, tokens, { blockSize, shift, maskId: MASK, top: 3 });
      expect(Math.abs(bounds.nll / c.bound - 1)).toBeLessThan(1e-6);
      expect(bounds).toMatchObject({ standardError: 0, mcSamples: 2 ** blockSize - 1 });
      expect(bounds.logprobs[0]).toBeNull();
      expect(bounds.top?.[0]).toBeNull();
      bounds.logprobs.slice(1).forEach((logprob, i) => {
        const top = bounds.top?.[i + 1] ?? [];
        expect(top).toHaveLength(3);
        expect(top[0].logprob).toBeGreaterThanOrEqual((logprob as number) - 1e-9);
        for (const one of top) if (one.id === tokens[i + 1]) expect(one.logprob).toBeCloseTo(logprob as number, 9);
      });
    },
  );

  it("each is the mean over the orders in which its block can be unmasked", async () => {
    const [tokens, blockSize] = [Int32Array.of(3, 9, 4, 7, 5, 8), 3];
    const { logprobs } = await diffusionTokenBounds(model, tokens, { blockSize, maskId: MASK });
    const blocks = [
      [1, 2],
      [3, 4, 5],
    ];
    // As the sampler sees a block: what is committed, masks, and the blocks before.
    const reference = new UncachedForward(model, blockSize);
    const logprobOf = (known: Int32Array, at: number, end: number) => {
      using rows = reference.logits({ sequence: known, finished: 0, end, rows: [at] });
      return torch.scope(() => (rows.to({ dtype: "float64" }).logSoftmax(1).tolist() as number[][])[0][tokens[at]]);
    };
    for (const block of blocks) {
      const sums = new Map(block.map((at) => [at, 0]));
      const orders = permutations(block);
      for (const order of orders) {
        const known = tokens.slice();
        for (const at of block) known[at] = MASK;
        for (const at of order) {
          const logprob = logprobOf(known, at, block[block.length - 1] + 1);
          sums.set(at, (sums.get(at) as number) + logprob / orders.length);
          known[at] = tokens[at];
        }
      }
      for (const [at, mean] of sums) expect(logprobs[at]).toBeCloseTo(mean, 5);
    }
  });

  it("random masks give an estimate, with its standard error, and spans of places the same values", async () => {
    const c = golden.find((each) => each.blockSize === 4 && each.documents.length === 2) as GoldenCase;
    const options = { blockSize: 4, shift: c.shift, maskId: MASK, mcSamples: 60, seed: 3 };
    const bounds = await diffusionTokenBounds(model, Int32Array.from(c.tokens), options);
    expect(bounds.mcSamples).toBe(60);
    expect(bounds.standardError).toBeGreaterThan(0);
    expect(Math.abs(bounds.nll - c.bound)).toBeLessThan(5 * bounds.standardError);
    const sum = bounds.logprobs.reduce<number>((total, each) => total + (each ?? 0), 0);
    expect(sum).toBeCloseTo(-bounds.nll, 9);
    await expect(diffusionTokenBounds(model, Int32Array.of(1, 2), { ...options, mcSamples: 1 })).rejects.toMatchObject({
      code: "DIFFUSION_OPTIONS",
    });
    const signal = AbortSignal.abort(new Error("enough"));
    await expect(diffusionTokenBounds(model, Int32Array.of(1, 2), { ...options, signal })).rejects.toThrow("enough");
  });
});

function permutations(items: readonly number[]): number[][] {
  if (items.length === 0) return [[]];
  return items.flatMap((first) => permutations(items.filter((each) => each !== first)).map((rest) => [first, ...rest]));
}
