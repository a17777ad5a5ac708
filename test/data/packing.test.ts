import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { collate, PackedDataset, type TokenSource } from "../../lib/data/index.js";
import { checkBatch, documentsOfRow } from "../../lib/diffusion/batch.js";
import { thrownBy } from "./helpers.js";

/** Documents in memory, read like a token file. */
function sourceOf(documents: readonly (readonly number[])[]): TokenSource {
  const all = documents.flat();
  const starts = new Float64Array(documents.length + 1);
  for (const [i, ids] of documents.entries()) starts[i + 1] = starts[i] + ids.length;
  return {
    numTokens: all.length,
    starts,
    hash: "test",
    read: (from, to) => Int32Array.from(all.slice(from, to)),
    documentAt: (position) => starts.findLastIndex((start) => start <= position),
  };
}

const documents = fc
  .array(fc.array(fc.integer({ min: 10, max: 99 }), { minLength: 1, maxLength: 30 }), { minLength: 1, maxLength: 30 })
  .filter((given) => given.flat().length >= 2);

describe("PackedDataset", () => {
  it("loses no token but the tail, and keeps their order", () => {
    fc.assert(
      fc.property(documents, fc.integer({ min: 2, max: 40 }), (given, length) => {
        const all = given.flat();
        if (all.length < length) return;
        const packed = new PackedDataset(sourceOf(given), { seqLen: length });
        const samples = Array.from({ length: packed.numSamples }, (_, i) => packed.sample(i));
        expect(samples.flatMap((one) => [...one.tokens])).toEqual(all.slice(0, packed.numSamples * length));
        expect(all.length - packed.numSamples * length).toBeLessThan(length);
        expect(samples.every((one) => one.starts === undefined && one.lossMask === undefined)).toBe(true);
        expect(packed.sample(packed.numSamples - 1)).toEqual(samples.at(-1));
      }),
    );
  });

  it("knows where documents start in a sample, and pads the tail where asked to", () => {
    fc.assert(
      fc.property(documents, fc.integer({ min: 2, max: 40 }), (given, length) => {
        const all = given.flat();
        const isFirst = given.flatMap((ids) => ids.map((_, i) => i === 0));
        const packed = new PackedDataset(sourceOf(given), {
          seqLen: length,
          keepDocumentBoundaries: true,
          tail: "pad",
          padId: 1,
        });
        expect(packed.numSamples).toBe(Math.ceil(all.length / length));
        for (let i = 0; i < packed.numSamples; i++) {
          const { tokens, starts = [], lossMask } = packed.sample(i);
          const real = Math.min(length, all.length - i * length);
          expect([...tokens]).toEqual([
            ...all.slice(i * length, i * length + real),
            ...new Array(length - real).fill(1),
          ]);
          expect(lossMask && [...lossMask]).toEqual(
            real < length ? Array.from({ length }, (_, j) => (j < real ? 1 : 0)) : undefined,
          );
          const expected = Array.from({ length }, (_, j) => j).filter(
            (j) => j === 0 || (j < real && isFirst[i * length + j]) || j === real,
          );
          expect([...starts]).toEqual(expected);
        }
      }),
    );
  });

  it("refuses what makes no sample", () => {
    const small = sourceOf([[1, 2, 3]]);
    expect(thrownBy(() => new PackedDataset(small, { seqLen: 4 }))).toMatch(
      /^DATA_TOO_SMALL 3 tokens do not fill .* 4/,
    );
    expect(new PackedDataset(small, { seqLen: 4, tail: "pad", padId: 0 }).numSamples).toBe(1);
    expect(thrownBy(() => new PackedDataset(small, { seqLen: 1 }))).toMatch(/^DATA_OPTIONS/);
    expect(thrownBy(() => new PackedDataset(small, { seqLen: 2, tail: "pad" }))).toMatch(/^DATA_OPTIONS .*padId/);
    for (const index of [-1, 1, 0.5]) {
      expect(thrownBy(() => new PackedDataset(small, { seqLen: 3 }).sample(index))).toMatch(/^DATA_RANGE/);
    }
  });
});

describe("collate", () => {
  it("makes batches that objectives accept", () => {
    fc.assert(
      fc.property(documents, fc.integer({ min: 2, max: 20 }), fc.boolean(), (given, length, keepDocumentBoundaries) => {
        const packed = new PackedDataset(sourceOf(given), {
          seqLen: length,
          keepDocumentBoundaries,
          tail: "pad",
          padId: 1,
        });
        const samples = Array.from({ length: packed.numSamples }, (_, i) => i);
        const batch = collate(
          packed,
          samples,
          samples.map((index) => index + 100),
        );
        checkBatch(batch);
        expect(batch.indices[0]).toBe(100);
        expect(batch.samples).toEqual(samples);
        for (const index of samples) {
          const { tokens, starts, lossMask } = packed.sample(index);
          expect([...batch.tokens.subarray(index * length, (index + 1) * length)]).toEqual([...tokens]);
          expect(documentsOfRow(batch, index)).toEqual([...(starts ?? [0]), length]);
          const mask = batch.lossMask?.subarray(index * length, (index + 1) * length);
          if (mask) expect([...mask]).toEqual([...(lossMask ?? new Uint8Array(length).fill(1))]);
          else expect(lossMask).toBeUndefined();
        }
      }),
    );
  });

  it("refuses a user's samples of another length", () => {
    const broken = { seqLen: 4, numSamples: 1, sample: () => ({ tokens: new Int32Array(3) }) };
    expect(thrownBy(() => collate(broken, [0], [0]))).toMatch(/^DATA_RANGE sample 0 has 3 tokens/);
  });
});
