import { describe, expect, it } from "vitest";
import { bootstrap, passAtK } from "../../lib/eval/index.js";

/** The share of all choices of k samples that have a correct one. */
function bruteForce(n: number, correct: number, k: number): number {
  let [all, hits] = [0, 0];
  for (let chosen = 0; chosen < 2 ** n; chosen++) {
    const members = Array.from({ length: n }, (_, i) => (chosen >> i) & 1);
    if (members.reduce((a, b) => a + b, 0) !== k) continue;
    all++;
    if (members.slice(0, correct).some(Boolean)) hits++;
  }
  return hits / all;
}

describe("passAtK", () => {
  it("is the share of all choices of k samples in which one is correct", () => {
    for (let n = 1; n <= 9; n++) {
      for (let correct = 0; correct <= n; correct++) {
        for (let k = 1; k <= n; k++) expect(passAtK({ n, correct }, k)).toBeCloseTo(bruteForce(n, correct, k), 12);
      }
    }
  });

  it("stays finite for many samples", () => {
    expect(passAtK({ n: 10_000, correct: 1 }, 100)).toBeCloseTo(0.01, 10);
    expect(passAtK({ n: 200, correct: 0 }, 100)).toBe(0);
  });

  it("refuses fewer samples than k, which MultiPL-E once gave 100 % for", () => {
    expect(() => passAtK({ n: 9, correct: 9 }, 10)).toThrow(
      /pass@10 needs at least 10 samples of every problem, got 9/,
    );
    expect(() => passAtK({ n: 9, correct: 0 }, 0)).toThrow(/at least 1/);
  });
});

describe("bootstrap", () => {
  it("gives the mean, an interval around it, and the same for the same seed", () => {
    const values = Array.from({ length: 164 }, (_, i) => (i % 4 === 0 ? 1 : 0));
    const estimate = bootstrap(values, 7);
    expect(estimate.value).toBe(0.25);
    // 1.96 sqrt(p (1 - p) / n) = 0.0663
    expect(estimate.low).toBeCloseTo(0.25 - 0.066, 1);
    expect(estimate.high).toBeCloseTo(0.25 + 0.066, 1);
    expect(estimate.high - estimate.low).toBeGreaterThan(0.11);
    expect(estimate.high - estimate.low).toBeLessThan(0.15);
    expect(bootstrap(values, 7)).toEqual(estimate);
    expect(bootstrap(values, 8)).not.toEqual(estimate);
  });

  it("has no width where every problem scores the same, and refuses no problems", () => {
    expect(bootstrap([1, 1, 1], 0)).toEqual({ value: 1, low: 1, high: 1 });
    expect(() => bootstrap([], 0)).toThrow(/no problem/);
  });
});
