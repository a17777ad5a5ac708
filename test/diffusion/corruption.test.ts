import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Corruption, type CorruptionOptions, corrupt } from "../../lib/diffusion/corruption.js";
import { DiffusionError } from "../../lib/diffusion/errors.js";
import { clippedLinear, customNoise, linearNoise } from "../../lib/diffusion/noise.js";
import type { Batch } from "../../lib/model/index.js";

const MASK = 5;
const base: CorruptionOptions = { blockSize: 4, noise: clippedLinear(), maskId: MASK, seed: 1, stage: 0 };

function makeBatch(indices: number[], length: number, more: Partial<Batch> = {}): Batch {
  const tokens = new Int32Array(indices.length * length);
  indices.forEach((index, row) => {
    for (let i = 0; i < length; i++) tokens[row * length + i] = 6 + ((index * 31 + i * 7) % 900);
  });
  return { indices, tokens, batch: indices.length, seqLen: length, ...more };
}

/** Positions, weights and noisy ids of one row, as if it had been alone. */
function rowOf(batch: Batch, c: Corruption, row: number) {
  const from = row * batch.seqLen;
  const inRow = [...c.positions.keys()].filter((k) => c.positions[k] >= from && c.positions[k] < from + batch.seqLen);
  return {
    positions: inRow.map((k) => c.positions[k] - from),
    weights: inRow.map((k) => c.weights[k]),
    targets: inRow.map((k) => c.targets[k]),
    noisy: [...c.noisy.subarray(from, from + batch.seqLen)],
  };
}

/**
 * What the clipped schedule of section 3.3 gives, by closed form: E[masked share] = E[u_blk] + P(fallback) / B;
 * E[w * masked] = 1 + (1/B) * integral of (1 - u_blk)^B / u_blk, computed here by quadrature.
 */
function expectedStatistics(size: number) {
  const floor = 1 / size;
  const fallback = floor * (1 - floor) ** size + (1 - floor) ** (size + 1) / (size + 1);
  const meanRate = floor * floor + (1 - floor * floor) / 2;
  const n = 200_000;
  let forced = 0;
  for (let i = 0; i < n; i++) {
    const rate = Math.max((i + 0.5) / n, floor);
    forced += (1 - rate) ** size / rate / n;
  }
  return { fallback, share: meanRate + fallback / size, mass: 1 + forced / size };
}

/** By quadrature, to four digits: [P(no mask) plain, P(fallback), masked share, weighted mass]. */
const TABLE: Record<number, [number, number, number, number]> = {
  1: [0.5, 0, 1, 1],
  2: [0.3333, 0.1667, 0.7083, 1.1591],
  4: [0.2, 0.1266, 0.5629, 1.1129],
  8: [0.1111, 0.0764, 0.5174, 1.0649],
  16: [0.0588, 0.0419, 0.5046, 1.0346],
  32: [0.0303, 0.0219, 0.5012, 1.0178],
};

describe("the statistics of section 3.3 and Eq. 11, within 5 standard errors of 200,000 blocks (5e-7 per check)", () => {
  const numBlocks = 200_000;
  const tolerance = (variance: number) => 5 * Math.sqrt(variance / numBlocks) + 5e-5;

  for (const size of [1, 2, 4, 8, 16, 32]) {
    const [empty, fallback, share, mass] = TABLE[size];
    const batch = makeBatch([size, 100 + size, 200 + size, 300 + size], (numBlocks / 4) * size);

    it(`B = ${size}: plain linear leaves ${empty} of the blocks clean (Eq. 11)`, () => {
      const c = corrupt(batch, { ...base, blockSize: size, noise: linearNoise() });
      expect(c.numBlocks).toBe(numBlocks);
      expect(Math.abs(c.emptyBlocks / numBlocks - empty)).toBeLessThan(tolerance(empty * (1 - empty)));
      expect(Math.abs(empty - 1 / (size + 1))).toBeLessThan(5e-5);
      // Var of a block's masked share is at most 1/4 and its mean is exactly 1/2.
      expect(Math.abs(c.numMasked / (numBlocks * size) - 0.5)).toBeLessThan(tolerance(0.25));
    });

    it(`B = ${size}: clipped, the fallback fires in ${fallback}, share ${share}, weighted mass ${mass}`, () => {
      const c = corrupt(batch, { ...base, blockSize: size });
      const exact = expectedStatistics(size);
      expect(exact.fallback).toBeCloseTo(fallback, 4);
      expect(exact.share).toBeCloseTo(share, 4);
      expect(exact.mass).toBeCloseTo(mass, 4);
      expect(c.emptyBlocks).toBe(0);
      expect(Math.abs(c.fallbackBlocks / numBlocks - fallback)).toBeLessThan(tolerance(fallback * (1 - fallback)));
      expect(Math.abs(c.numMasked / (numBlocks * size) - share)).toBeLessThan(tolerance(0.25));
      // Per block, mass = m / (B u_blk), m ~ Binomial(B, u_blk): E[mass^2] <= 1 + 1 / (B u_blk), and at most 1 is forced.
      expect(Math.abs(c.weightedMass - mass)).toBeLessThan(tolerance(3));
      expect(Math.max(...c.weights.subarray(0, 10_000))).toBeLessThanOrEqual(size);
    });
  }

  it("the fallback's place is uniform in the block (chi-square, 7 degrees of freedom, p = 1e-6)", () => {
    const size = 8;
    const batch = makeBatch([1, 2, 3, 4], 50_000 * size);
    // A rate that never masks: every block falls back.
    const noise = customNoise("never", () => 0, { weight: () => 1, fallback: true });
    const c = corrupt(batch, { ...base, blockSize: size, noise });
    expect(c.fallbackBlocks).toBe(c.numBlocks);
    const counts = new Array(size).fill(0);
    for (const i of c.positions) counts[i % size]++;
    const mean = c.numBlocks / size;
    const chiSquare = counts.reduce((sum, n) => sum + (n - mean) ** 2 / mean, 0);
    expect(chiSquare).toBeLessThan(40.5);
  });

  it("under a cap the mean masked share is u_max / 2 (Eq. 10), with no clip and no fallback", () => {
    const batch = makeBatch([1, 2, 3, 4], numBlocks);
    const warming = { ...base, clip: false, fallback: false, weighted: false };
    for (const uMax of [1e-3, 0.1, 0.5]) {
      const c = corrupt(batch, { ...warming, uMax });
      const tokens = 4 * numBlocks;
      // Tokens of a block share t: variance of a block's share is below its mean.
      expect(Math.abs(c.numMasked / tokens - uMax / 2)).toBeLessThan(5 * Math.sqrt(uMax / 2 / numBlocks));
      expect(c.fallbackBlocks).toBe(0);
      expect(c.weights.every((w) => w === 1)).toBe(true);
    }
  });

  it("tokens of a block are masked independently given t", () => {
    // With a fixed rate of 1/2, m ~ Binomial(4, 1/2): chi-square over m = 0..4, 4 degrees of freedom, p = 1e-6.
    const noise = customNoise("half", () => 0.5, { weight: () => 1 });
    const batch = makeBatch([9], 400_000);
    const c = corrupt(batch, { ...base, noise });
    const perBlock = new Array(100_000).fill(0);
    for (const i of c.positions) perBlock[i >> 2]++;
    const chiSquare = [1, 4, 6, 4, 1].reduce((sum, ways, m) => {
      const mean = (100_000 * ways) / 16;
      return sum + (perBlock.filter((k) => k === m).length - mean) ** 2 / mean;
    }, 0);
    expect(chiSquare).toBeLessThan(33.4);
  });
});

describe("corruption is a pure function of (seed, stage, sample index)", () => {
  const options = fc.record({
    blockSize: fc.integer({ min: 1, max: 9 }),
    seed: fc.nat(),
    stage: fc.nat(5),
    uMax: fc.constantFrom(1, 0.3),
    granularity: fc.constantFrom("block" as const, "document" as const, "sequence" as const),
    timeSampling: fc.constantFrom("independent" as const, "antithetic" as const, "low-discrepancy" as const),
    keepFirst: fc.boolean(),
    noise: fc.constantFrom(clippedLinear(), linearNoise()),
  });

  it("whatever rows lie beside it and in whatever order", () => {
    fc.assert(
      fc.property(
        options,
        fc.uniqueArray(fc.nat(1e6), { minLength: 2, maxLength: 5 }),
        fc.integer({ min: 1, max: 40 }),
        (o, indices, length) => {
          const together = makeBatch(indices, length);
          const reversed = makeBatch([...indices].reverse(), length);
          const a = corrupt(together, { ...base, ...o });
          const b = corrupt(reversed, { ...base, ...o });
          indices.forEach((index, row) => {
            const alone = makeBatch([index], length);
            const c = rowOf(alone, corrupt(alone, { ...base, ...o }), 0);
            expect(rowOf(together, a, row)).toEqual(c);
            expect(rowOf(reversed, b, indices.length - 1 - row)).toEqual(c);
          });
        },
      ),
    );
  });

  it("and changes with each of them", () => {
    const batch = makeBatch([3], 256);
    const positions = (o: Partial<CorruptionOptions>, b = batch) => [...corrupt(b, { ...base, ...o }).positions].join();
    const all = [
      positions({}),
      positions({ seed: 2 }),
      positions({ stage: 1 }),
      positions({}, { ...batch, indices: [4] }),
    ];
    expect(new Set(all).size).toBe(4);
    expect(positions({})).toBe(all[0]);
  });

  it("does not touch the batch", () => {
    const batch = makeBatch([1, 2], 33, { lossMask: new Uint8Array(66).fill(1), documents: [0, 5, 33, 66] });
    const copy = structuredClone(batch);
    corrupt(batch, { ...base, keepFirst: true });
    expect(batch).toEqual(copy);
  });
});

describe("what is masked", () => {
  const cases = fc.record({
    length: fc.integer({ min: 1, max: 30 }),
    blockSize: fc.integer({ min: 1, max: 9 }),
    seed: fc.nat(),
    cuts: fc.uniqueArray(fc.nat(59), { maxLength: 6 }),
    mask: fc.array(fc.boolean(), { minLength: 60, maxLength: 60 }),
    keepFirst: fc.boolean(),
    granularity: fc.constantFrom("block" as const, "document" as const, "sequence" as const),
  });

  it("only answer tokens, in every block that has some, with weights between 1 and the block's size", () => {
    fc.assert(
      fc.property(cases, ({ length, blockSize, seed, cuts, mask, keepFirst, granularity }) => {
        const documents = [...new Set([0, length, 2 * length, ...cuts.filter((c) => c < 2 * length)])];
        documents.sort((a, b) => a - b);
        const lossMask = Uint8Array.from(mask.slice(0, 2 * length), Number);
        const batch = makeBatch([7, 8], length, { documents, lossMask });
        const c = corrupt(batch, { ...base, blockSize, seed, keepFirst, granularity });
        const maskable = (i: number) => lossMask[i] === 1 && !(keepFirst && documents.includes(i));

        const masked = new Set(c.positions);
        let numBlocks = 0;
        let numMaskable = 0;
        for (let d = 0; d + 1 < documents.length; d++) {
          for (let start = documents[d]; start < documents[d + 1]; start += blockSize) {
            const block = [...Array(Math.min(blockSize, documents[d + 1] - start)).keys()].map((k) => start + k);
            const allowed = block.filter(maskable);
            const hit = block.filter((i) => masked.has(i));
            expect(hit.every(maskable)).toBe(true);
            if (allowed.length > 0) {
              numBlocks++;
              numMaskable += allowed.length;
              expect(hit.length).toBeGreaterThanOrEqual(1);
            }
            const weights = hit.map((i) => c.weights[c.positions.indexOf(i)]);
            expect(new Set(weights).size).toBeLessThanOrEqual(1);
            for (const w of weights) {
              expect(w).toBeGreaterThanOrEqual(1);
              expect(w).toBeLessThanOrEqual(allowed.length + 1e-4);
            }
          }
        }
        expect(c).toMatchObject({ numBlocks, numMaskable, emptyBlocks: 0, numMasked: masked.size });
        expect([...c.positions]).toEqual([...masked].sort((a, b) => a - b));
        batch.tokens.forEach((token, i) => {
          expect(c.noisy[i]).toBe(masked.has(i) ? MASK : token);
        });
        expect([...c.targets]).toEqual([...c.positions].map((i) => batch.tokens[i]));
      }),
    );
  });

  it("blocks restart at a document's start when boundaries count, and run on when they do not", () => {
    const batch = makeBatch([1], 7, { documents: [0, 3, 7] });
    expect(corrupt(batch, base).numBlocks).toBe(2); // 3 and 4 tokens
    expect(corrupt({ ...batch, documents: [0, 1, 2, 7] }, base).numBlocks).toBe(4); // 1, 1, 4, 1
    expect(corrupt({ ...batch, documents: undefined }, base).numBlocks).toBe(2); // 4 and 3
  });

  it("one noise level per block, document or row, as told", () => {
    const batch = makeBatch([1], 4000, { documents: [0, 1500, 4000] });
    // The weight without clip is 1 / t: as many different weights as levels.
    const levels = (granularity: CorruptionOptions["granularity"]) =>
      new Set(corrupt(batch, { ...base, noise: linearNoise(), granularity, blockSize: 100 }).weights).size;
    expect(levels("sequence")).toBe(1);
    expect(levels("document")).toBe(2);
    expect(levels("block")).toBe(40);
  });
});

describe("noise levels", () => {
  /** The levels t of a batch, read off weights that are the levels themselves; every token is masked. */
  function levels(options: Partial<CorruptionOptions>, indices = [1], length = 64): number[] {
    const noise = { ...linearNoise(), u: () => 1, weight: (t: number) => t };
    const c = corrupt(makeBatch(indices, length), { ...base, blockSize: 1, noise, ...options });
    return [...c.weights];
  }

  it("antithetic levels come in pairs t, 1 - t", () => {
    const t = levels({ timeSampling: "antithetic" });
    for (let k = 0; k < t.length; k += 2) expect(t[k] + t[k + 1]).toBeCloseTo(1, 5);
    const perRow = levels({ timeSampling: "antithetic", granularity: "sequence" }, [10, 11, 12, 13], 1);
    expect(perRow[0] + perRow[1]).toBeCloseTo(1, 5);
    expect(perRow[2] + perRow[3]).toBeCloseTo(1, 5);
    expect(perRow[0]).not.toBeCloseTo(perRow[2], 5);
  });

  it("low-discrepancy levels leave no gap wider than 2.2 / n, within a row and across rows", () => {
    for (const t of [
      levels({ timeSampling: "low-discrepancy" }),
      levels(
        { timeSampling: "low-discrepancy", granularity: "sequence" },
        [...Array(64).keys()].map((i) => i + 1000),
        1,
      ),
    ]) {
      const sorted = [...t].sort((a, b) => a - b);
      const gaps = sorted.map((x, i) => x - (i > 0 ? sorted[i - 1] : sorted[sorted.length - 1] - 1));
      expect(Math.max(...gaps)).toBeLessThan(2.2 / 64);
    }
  });

  it("each level by itself is uniform (mean and variance within 5 standard errors of 20,000 rows)", () => {
    for (const times of ["independent", "antithetic", "low-discrepancy"] as const) {
      const first = levels({ timeSampling: times }, [...Array(20_000).keys()], 1);
      const mean = first.reduce((a, b) => a + b) / first.length;
      const variance = first.reduce((a, b) => a + (b - 0.5) ** 2, 0) / first.length;
      expect(Math.abs(mean - 0.5)).toBeLessThan(5 * Math.sqrt(1 / 12 / 20_000));
      expect(Math.abs(variance - 1 / 12)).toBeLessThan(5 * Math.sqrt(1 / 180 / 20_000));
    }
  });

  it("stay under the cap", () => {
    for (const times of ["independent", "antithetic", "low-discrepancy"] as const) {
      const t = levels({ timeSampling: times, uMax: 0.25 });
      expect(Math.max(...t)).toBeLessThanOrEqual(0.25);
      expect(Math.min(...t)).toBeGreaterThanOrEqual(0);
    }
  });
});

describe("bad input", () => {
  const batch = makeBatch([1, 2], 8);
  const cases: [string, Partial<Batch>, Partial<CorruptionOptions>, RegExp][] = [
    ["too few tokens", { tokens: new Int32Array(3) }, {}, /tokens has 3/],
    ["too few indices", { indices: [1] }, {}, /indices has 1/],
    ["a short lossMask", { lossMask: new Uint8Array(5) }, {}, /lossMask has 5/],
    ["documents that stop early", { documents: [0, 8] }, {}, /documents must run from 0 to 16/],
    ["documents that fall", { documents: [0, 8, 7, 16] }, {}, /documents must be increasing/],
    ["documents across rows", { documents: [0, 9, 16] }, {}, /start of every row/],
    ["block size 0", {}, { blockSize: 0 }, /blockSize/],
    ["block size 1.5", {}, { blockSize: 1.5 }, /blockSize/],
    ["a cap of 0", {}, { uMax: 0 }, /uMax/],
    ["a cap above 1", {}, { uMax: 1.5 }, /uMax/],
  ];
  for (const [name, change, options, message] of cases) {
    it(name, () => {
      expect(() => corrupt({ ...batch, ...change }, { ...base, ...options })).toThrow(DiffusionError);
      expect(() => corrupt({ ...batch, ...change }, { ...base, ...options })).toThrow(message);
    });
  }
});
