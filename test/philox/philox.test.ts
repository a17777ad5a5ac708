import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Philox, philoxBlock } from "../../lib/torch/philox.js";

interface Block {
  counter: number[];
  key: number[];
  words: number[];
}
const fixture = JSON.parse(readFileSync(new URL("../fixtures/philox/philox4x32.json", import.meta.url), "utf8")) as {
  known: Block[];
  blocks: Block[];
  streams: { seed: number; streams: number[]; words: number[] }[];
};

describe("philoxBlock", () => {
  it.each(["known", "blocks"] as const)("gives the words of the reference (%s)", (part) => {
    const out = new Uint32Array(6);
    for (const { counter, key, words } of fixture[part]) {
      philoxBlock(out, 1, counter[0], counter[1], counter[2], counter[3], key[0], key[1]);
      expect([...out.slice(1, 5)]).toEqual(words);
    }
  });
});

describe("Philox", () => {
  it("gives the streams of the reference", () => {
    for (const { seed, streams, words } of fixture.streams) {
      const random = new Philox(seed, ...streams);
      expect(words.map(() => random.uint32())).toEqual(words);
      expect([...new Philox(BigInt(seed), ...streams).fillUint32(new Uint32Array(words.length))]).toEqual(words);
    }
  });

  it("fills as it draws, from any position, and jumps", () => {
    fc.assert(
      fc.property(fc.nat(40), fc.nat(40), fc.nat(20), (skip, count, more) => {
        const drawn = new Philox(9, 1, 2);
        const all = Array.from({ length: skip + count + more }, () => drawn.uint32());
        const filled = new Philox(9, 1, 2);
        filled.position = skip;
        expect([...filled.fillUint32(new Uint32Array(count))]).toEqual(all.slice(skip, skip + count));
        expect(filled.position).toBe(skip + count);
        expect([...filled.fillUint32(new Uint32Array(more))]).toEqual(all.slice(skip + count));
      }),
    );
    const one = new Philox(3, 4);
    const two = new Philox(3, 4);
    const uniforms = Array.from({ length: 11 }, () => one.uniform());
    expect([...two.fillUniform(new Float64Array(11))]).toEqual(uniforms);
  });

  it("keeps streams and seeds apart", () => {
    const seen = new Map<string, string>();
    const first = (seed: number | bigint, ...streams: number[]) => {
      const words = new Philox(seed, ...streams).fillUint32(new Uint32Array(4)).join();
      const name = `${seed}:${streams.join()}`;
      expect(seen.get(words), name).toBeUndefined();
      seen.set(words, name);
    };
    for (let seed = 0; seed < 4; seed++) {
      first(seed);
      for (let a = 0; a < 6; a++) {
        first(seed, a);
        for (let b = 0; b < 6; b++) {
          first(seed, a, b);
          first(seed, a, 2 ** 32 + b);
          for (let c = 0; c < 6; c++) first(seed, a, b, c);
        }
      }
    }
    first(2n ** 63n);
    first(-1);
    expect(new Philox(-1).uint32()).toBe(new Philox(2n ** 64n - 1n).uint32());
  });

  it("is uniform", () => {
    // 64 bins, 200,000 draws: chi-square with 63 degrees of freedom is below 124 but for one seed in 10^5.
    const chiSquare = (counts: Float64Array, draws: number) => {
      const expected = draws / counts.length;
      return counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
    };
    const draws = 200_000;
    const byUniform = new Float64Array(64);
    const byBelow = new Float64Array(64);
    const random = new Philox(11, 0);
    let sum = 0;
    for (const value of random.fillUniform(new Float64Array(draws))) {
      if (!(value >= 0 && value < 1)) expect.fail(`${value} is not in [0, 1)`);
      sum += value;
      byUniform[Math.floor(value * 64)]++;
      byBelow[random.below(64)]++;
    }
    expect(chiSquare(byUniform, draws)).toBeLessThan(124);
    expect(chiSquare(byBelow, draws)).toBeLessThan(124);
    expect(Math.abs(sum / draws - 0.5)).toBeLessThan((5 * Math.sqrt(1 / 12)) / Math.sqrt(draws));
    // First words of neighbouring streams are as good as the words of one stream: corruption draws one stream a sample.
    const byStream = new Float64Array(64);
    for (let sample = 0; sample < draws; sample++) byStream[Math.floor(new Philox(5, 2, sample).uniform() * 64)]++;
    expect(chiSquare(byStream, draws)).toBeLessThan(124);
  });

  it("draws below any n without favour", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }), fc.nat(), (n, seed) => {
        const value = new Philox(seed).below(n);
        expect(Number.isInteger(value) && value >= 0 && value < n).toBe(true);
      }),
    );
    // 3 * 2^30 does not divide 2^32: a plain remainder would give the lowest quarter twice as often.
    const random = new Philox(1);
    let low = 0;
    for (let i = 0; i < 30_000; i++) if (random.below(3 * 2 ** 30) < 2 ** 30) low++;
    expect(Math.abs(low / 30_000 - 1 / 3)).toBeLessThan(0.015);
    expect(new Philox(1).below(1)).toBe(0);
  });

  it("refuses what is not a number it can use", () => {
    expect(() => new Philox(0.5)).toThrow(RangeError);
    expect(() => new Philox(2 ** 60)).toThrow(/seed/);
    expect(() => new Philox(1, -1)).toThrow(/stream/);
    expect(() => new Philox(1, 1.5, 2)).toThrow(/stream/);
    expect(() => new Philox(1).below(0)).toThrow(/below/);
    expect(() => new Philox(1).below(2 ** 53)).toThrow(RangeError);
    expect(() => {
      new Philox(1).position = -1;
    }).toThrow(/position/);
  });
});
