import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { type AttentionPlan, causalPlan, Decoder, presetConfig } from "../../lib/model/index.js";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import { difference } from "../nn/golden.js";
import { heldTensors } from "../torch/held-tensors.js";
import { cachedPlan, KeyValueCache, type Visibility } from "./kv-cache.js";

const config = presetConfig("tiny", {
  vocabSize: 96,
  hiddenSize: 32,
  intermediateSize: 48,
  numHeads: 4,
  numKeyValueHeads: 2,
  numLayers: 3,
  initializerRange: 0.2,
});
const model = new Decoder(config, { generator: new torch.Generator({ seed: 1 }) });
afterAll(() => model.dispose());

const tokens = (b: number, s: number, seed = 2) =>
  torch.randint(0, config.vocabSize, [b, s], { generator: new torch.Generator({ seed }) });

/** A plan that attends through a dense mask: what the cache must agree with. */
function densePlan(length: number, blockSize: number): AttentionPlan {
  const blocks = torch.arange(length).div(blockSize, { roundingMode: "floor" });
  const mask = blocks.unsqueeze(1).ge(blocks.unsqueeze(0));
  return {
    positions: torch.arange(length),
    attend: (_, q, k, v) => {
      const [qt, kt, vt] = [q, k, v].map((tensor) => tensor.transpose(1, 2));
      return torch.scaledDotProductAttention(qt, kt, vt, mask, 0, false, { enableGqa: true }).transpose(1, 2);
    },
  };
}

/** Feeds ids in pieces of the given lengths, keeping all of them, and returns all hidden states. */
function feed(cache: KeyValueCache, ids: Tensor, lengths: number[], visibility: Visibility): Tensor {
  let start = 0;
  const parts = lengths.map((length) => {
    const part = model.forward(ids.narrow(1, start, length), cachedPlan(cache, { length, visibility }));
    cache.advance(length);
    start += length;
    return part;
  });
  return torch.cat(parts, 1);
}

describe("cached decoding", () => {
  it("is the full causal forward, however the tokens are cut", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 5 }), (lengths) => {
        torch.scope(() => {
          const total = lengths.reduce((a, b) => a + b);
          const ids = tokens(2, total);
          using cache = KeyValueCache.for(model, { batch: 2, maxLength: total });
          const full = model.forward(ids, causalPlan(total));
          expect(difference(feed(cache, ids, lengths, "causal"), full)).toBeLessThan(1e-5);
          expect(cache.length).toBe(total);
        });
      }),
      { numRuns: 15 },
    );
  });

  it("is the full block-causal forward when cut at blocks, the last one short", () => {
    torch.scope(() => {
      const ids = tokens(2, 11);
      for (const lengths of [[4, 4, 3], [8, 3], [4, 7], [11]]) {
        using cache = KeyValueCache.for(model, { batch: 2, maxLength: 11 });
        const found = feed(cache, ids, lengths, { blockSize: 4 });
        expect(difference(found, model.forward(ids, densePlan(11, 4)))).toBeLessThan(1e-5);
      }
    });
  });

  it("one block at a time sees itself both ways: full is block-causal", () => {
    torch.scope(() => {
      const ids = tokens(1, 8);
      using cache = KeyValueCache.for(model, { maxLength: 8 });
      expect(difference(feed(cache, ids, [4, 4], "full"), model.forward(ids, densePlan(8, 4)))).toBeLessThan(1e-5);
    });
  });

  it("a denoising pass that is not kept leaves no trace", () => {
    torch.scope(() => {
      const ids = tokens(1, 12);
      using used = KeyValueCache.for(model, { maxLength: 12 });
      using clean = KeyValueCache.for(model, { maxLength: 12 });
      for (const cache of [used, clean]) feed(cache, ids, [4], { blockSize: 4 });
      model.forward(tokens(1, 8, 9), cachedPlan(used, { length: 8, visibility: { blockSize: 4 } }));
      const next = (cache: KeyValueCache) =>
        model.forward(ids.narrow(1, 4, 4), cachedPlan(cache, { length: 4, visibility: "full" }));
      expect(difference(next(used), next(clean))).toBe(0);
    });
  });

  it("a finished block rides with the next one's first pass and is kept alone", () => {
    torch.scope(() => {
      const ids = tokens(1, 12);
      using cache = KeyValueCache.for(model, { maxLength: 12 });
      feed(cache, ids, [4], { blockSize: 4 });
      const both = model.forward(ids.narrow(1, 4, 8), cachedPlan(cache, { length: 8, visibility: { blockSize: 4 } }));
      cache.advance(4);
      expect(cache.length).toBe(8);
      const alone = model.forward(ids.narrow(1, 8, 4), cachedPlan(cache, { length: 4, visibility: "full" }));
      expect(difference(both.narrow(1, 4, 4), alone)).toBeLessThan(1e-5);
    });
  });

  it("computes only what the last layer is asked for", () => {
    torch.scope(() => {
      const ids = tokens(2, 8);
      using cache = KeyValueCache.for(model, { batch: 2, maxLength: 16 });
      const rows = torch.tensor([3, 12], { dtype: "int64" });
      for (const [visibility, start] of [
        ["causal", 0],
        [{ blockSize: 4 }, 0],
        ["causal", 8],
      ] as [Visibility, number][]) {
        if (start > cache.length) feed(cache, ids, [8], "causal");
        const full = model.forward(ids, cachedPlan(cache, { length: 8, visibility }));
        const queries = model.forward(ids, cachedPlan(cache, { length: 8, visibility, lastLayer: { queries: 4 } }));
        expect(difference(queries, full.narrow(1, 0, 4))).toBeLessThan(1e-5);
        const picked = model.forward(ids, cachedPlan(cache, { length: 8, visibility, lastLayer: { rows } }));
        expect(difference(picked, full.flatten(0, 1).indexSelect(0, rows))).toBeLessThan(1e-5);
      }
    });
  });

  it("works in inference mode with a cache made outside or inside it", () => {
    const run = (cache: KeyValueCache, ids: Tensor) => feed(cache, ids, [4, 4], "causal");
    torch.scope(() => {
      const ids = tokens(1, 8);
      using outside = KeyValueCache.for(model, { maxLength: 8 });
      const expected = model.forward(ids, causalPlan(8));
      torch.inferenceMode(() => {
        using inside = KeyValueCache.for(model, { maxLength: 8 });
        expect(difference(run(inside, ids), expected)).toBeLessThan(1e-5);
        expect(difference(run(outside, ids), expected)).toBeLessThan(1e-5);
      });
    });
  });

  it("holds no tensors back: a pass leaves as many as it found", () => {
    using cache = KeyValueCache.for(model, { maxLength: 64 });
    const ids = torch.keep(tokens(1, 4));
    const alive = Array.from({ length: 10 }, () => {
      torch.scope(() => {
        model.forward(ids, cachedPlan(cache, { length: 4, visibility: "full" }));
      });
      cache.advance(4);
      return heldTensors();
    });
    expect(new Set(alive).size).toBe(1);
    ids.dispose();
  });
});
