import { describe, expect, it } from "vitest";
import { sampleToken } from "../../lib/engine/index.js";
import * as torch from "../../lib/torch/index.js";

const logits = Float32Array.of(1.5, -0.5, 0.25, Number.NEGATIVE_INFINITY, 2, 0, -3, 1);

function softmax(values: ArrayLike<number>): number[] {
  const e = Array.from(values, (x) => Math.exp(x));
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map((x) => x / sum);
}

/** Chi-square of 50,000 draws against probabilities. */
function chiSquare(options: { temperature: number; topK: number; topP: number }, expected: number[]): number {
  const counts = new Array(logits.length).fill(0);
  const n = 50_000;
  for (let i = 0; i < n; i++) counts[sampleToken(logits, options, new torch.Philox(1, i)).id]++;
  return expected.reduce((sum, p, v) => {
    if (p === 0) return sum + (counts[v] === 0 ? 0 : Number.POSITIVE_INFINITY);
    return sum + (counts[v] - n * p) ** 2 / (n * p);
  }, 0);
}

describe("sampling a token", () => {
  // Chi-square with 6 degrees of freedom exceeds 38.3 once in 1e6.
  it("follows the tempered softmax", () => {
    expect(chiSquare({ temperature: 1, topK: 0, topP: 1 }, softmax(logits))).toBeLessThan(38.3);
    const warm = softmax(logits.map((x) => x / 2.5));
    expect(chiSquare({ temperature: 2.5, topK: 0, topP: 1 }, warm)).toBeLessThan(38.3);
  });

  it("top-k keeps the k most likely, top-p the fewest that reach p", () => {
    const only = (ids: number[]) => softmax(logits.map((x, v) => (ids.includes(v) ? x : Number.NEGATIVE_INFINITY)));
    expect(chiSquare({ temperature: 1, topK: 3, topP: 1 }, only([4, 0, 7]))).toBeLessThan(38.3);
    const p = softmax(logits);
    expect(p[4]).toBeLessThan(0.5);
    expect(p[4] + p[0]).toBeGreaterThan(0.5);
    expect(chiSquare({ temperature: 1, topK: 0, topP: 0.5 }, only([4, 0]))).toBeLessThan(38.3);
  });

  it("reports the untempered, unfiltered probability of what it took", () => {
    const p = softmax(logits);
    for (let i = 0; i < 50; i++) {
      const { id, probability } = sampleToken(logits, { temperature: 3, topK: 4, topP: 0.9 }, new torch.Philox(2, i));
      expect(probability).toBeCloseTo(p[id], 12);
    }
  });
});
