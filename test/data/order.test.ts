import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Dataset, Loader, SampleOrder } from "../../lib/data/index.js";
import { thrownBy } from "./helpers.js";

describe("SampleOrder", () => {
  it("meets every sample once an epoch", () => {
    const sizes = fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 41, max: 3000 }));
    fc.assert(
      fc.property(sizes, fc.nat(), fc.integer({ min: 0, max: 1e6 }), (n, seed, epoch) => {
        const order = new SampleOrder(n, { seed });
        const met = new Uint8Array(n);
        for (let i = 0; i < n; i++) {
          const place = order.at(epoch * n + i);
          expect(place.epoch).toBe(epoch);
          met[place.sample]++;
        }
        expect(met.every((count) => count === 1)).toBe(true);
      }),
      { numRuns: 40 },
    );
  });

  it("is another one in each epoch and for each seed, and is the same from any position", () => {
    const n = 500;
    const epoch = (seed: number, e: number) => {
      const order = new SampleOrder(n, { seed });
      return Array.from({ length: n }, (_, i) => order.at(e * n + i).sample);
    };
    const orders = [epoch(0, 0), epoch(0, 1), epoch(1, 0), epoch(1, 1)];
    expect(new Set(orders.map((order) => order.join())).size).toBe(4);
    // Two random permutations agree in 1 place on average.
    const agreeing = orders[0].filter((sample, i) => sample === orders[1][i]).length;
    expect(agreeing).toBeLessThan(8);
    const stage = new SampleOrder(n, { seed: 0, stage: 1 });
    expect(Array.from({ length: n }, (_, i) => stage.at(i).sample)).not.toEqual(orders[0]);
    const backwards = new SampleOrder(n, { seed: 0 });
    for (let i = n - 1; i >= 0; i--) expect(backwards.at(n + i).sample).toBe(orders[1][i]);
    const huge = new SampleOrder(2 ** 40 + 7, { seed: 4 });
    expect(huge.at(3 * (2 ** 40 + 7) + 12).epoch).toBe(3);
  });

  it("favours no sample, no place and no pair", () => {
    // Each of n samples in each of n places: chi-square with (n - 1)^2 degrees of freedom; mean + 5 deviations.
    for (const n of [2, 3, 5, 12]) {
      const draws = 2000;
      const counts = new Float64Array(n * n);
      const following = new Float64Array(n * n);
      for (let seed = 0; seed < draws; seed++) {
        const order = new SampleOrder(n, { seed });
        const samples = Array.from({ length: n }, (_, i) => order.at(i).sample);
        for (const [i, sample] of samples.entries()) {
          counts[i * n + sample]++;
          if (i > 0) following[samples[i - 1] * n + sample]++;
        }
      }
      const chi = counts.reduce((sum, count) => sum + (count - draws / n) ** 2 / (draws / n), 0);
      const freedom = (n - 1) ** 2;
      expect(chi, `places, n = ${n}`).toBeLessThan(freedom + 5 * Math.sqrt(2 * freedom) + 5);
      const pairs = (draws * (n - 1)) / (n * (n - 1));
      const chiPairs = following.reduce(
        (sum, count, at) => (at % (n + 1) === 0 ? sum : sum + (count - pairs) ** 2 / pairs),
        0,
      );
      expect(chiPairs, `pairs, n = ${n}`).toBeLessThan(n * (n - 1) + 5 * Math.sqrt(2 * n * (n - 1)) + 5);
    }
  });

  it("can leave the order alone, and refuses what is no position", () => {
    const plain = new SampleOrder(3, { shuffle: false });
    expect([0, 1, 2, 3, 4].map((p) => plain.at(p).sample)).toEqual([0, 1, 2, 0, 1]);
    for (const position of [-1, 0.5, Number.NaN]) expect(thrownBy(() => plain.at(position))).toMatch(/^DATA_RANGE/);
    for (const n of [0, -3, 1.5, 2 ** 50]) expect(thrownBy(() => new SampleOrder(n))).toMatch(/^DATA_RANGE/);
  });
});

describe("Loader", () => {
  const dataset: Dataset = {
    seqLen: 4,
    numSamples: 37,
    sample: (index) => ({ tokens: Int32Array.of(index, index + 1, index + 2, index + 3) }),
  };
  const loader = new Loader(dataset, { seed: 8 });
  /** Rows that all ranks together read in `steps` steps from `position`, by stream position. */
  const rows = (worldSize: number, batchSize: number, position: number, steps: number) => {
    const found = new Map<number, string>();
    let next = position;
    for (let rank = 0; rank < worldSize; rank++) {
      let step = 0;
      for (const loaded of loader.read({ worldSize, rank, batchSize, position })) {
        const { batch } = loaded;
        for (const [row, index] of batch.indices.entries()) {
          expect(found.has(index)).toBe(false);
          found.set(index, `${batch.samples?.[row]}: ${batch.tokens.subarray(row * 4, row * 4 + 4).join()}`);
        }
        next = loaded.position;
        if (++step === steps) break;
      }
    }
    return { found: [...found].sort(([a], [b]) => a - b), next };
  };

  it("gives the same rows to any number of ranks, disjoint and without gaps", () => {
    const one = rows(1, 12, 0, 10);
    expect(one.found.map(([index]) => index)).toEqual(Array.from({ length: 120 }, (_, i) => i));
    for (const [worldSize, batchSize, steps] of [
      [2, 6, 10],
      [4, 3, 10],
      [3, 4, 10],
      [1, 3, 40],
      [2, 3, 20],
      [12, 1, 10],
    ]) {
      expect(rows(worldSize, batchSize, 0, steps)).toEqual(one);
    }
  });

  it("goes on from a position with another number of ranks", () => {
    const whole = rows(1, 4, 0, 30);
    const start = rows(2, 4, 0, 5);
    expect(start.next).toBe(40);
    const rest = rows(4, 2, start.next, 10);
    expect([...start.found, ...rest.found]).toEqual(whole.found);
  });

  it("reads the dataset's samples in the order's places", () => {
    const batch = loader.batchAt(35, 5); // over the end of an epoch
    expect(batch.indices).toEqual([35, 36, 37, 38, 39]);
    expect(batch.samples).toEqual(batch.indices.map((p) => loader.order.at(p).sample));
    expect([...batch.tokens].filter((_, i) => i % 4 === 0)).toEqual(batch.samples);
    expect(batch.documents).toBeUndefined();
  });

  it("ends where asked, and evaluates each sample once", () => {
    const loaded = [...loader.read({ batchSize: 10, until: loader.endOf(2) })];
    expect(loaded).toHaveLength(8); // ceil(74 / 10)
    expect(loaded.map((one) => one.epoch)).toEqual([0, 0, 0, 0, 1, 1, 1, 1]);
    const ranks = [0, 1, 2].map((rank) => [...loader.read({ batchSize: 5, until: 37, rank, worldSize: 3 })].length);
    expect(ranks).toEqual([3, 3, 3]); // every rank takes as many steps, or collectives would hang
    const once = [...loader.once(16)];
    expect(once.map((batch) => batch.batch)).toEqual([16, 16, 5]);
    expect(once.flatMap((batch) => batch.samples)).toEqual(Array.from({ length: 37 }, (_, i) => i));
  });

  it("refuses a place outside the world", () => {
    const read = (options: Partial<Parameters<Loader["read"]>[0]>) =>
      thrownBy(() => loader.read({ batchSize: 1, ...options }).next());
    expect(read({ rank: 2, worldSize: 2 })).toMatch(/^DATA_OPTIONS rank 2 is outside a world of 2/);
    expect(read({ batchSize: 0 })).toMatch(/^DATA_OPTIONS batchSize/);
    expect(read({ position: -1 })).toMatch(/^DATA_OPTIONS position/);
    expect(read({ worldSize: 0.5 })).toMatch(/^DATA_OPTIONS worldSize/);
  });
});
