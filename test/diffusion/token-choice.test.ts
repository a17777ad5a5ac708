import { describe, expect, it } from "vitest";
import { chooseTokens, sampleToken } from "../../lib/diffusion/token-choice.js";
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

describe("choosing for rows", () => {
  const rows = Array.from({ length: 6 }, (_, r) =>
    Array.from(logits, (x, v) => (v === 3 ? x : x + Math.sin(r * 8 + v))),
  );
  const keys = rows.map((_, r) => ({ position: 100 + r, pass: 2 }));

  it("without temperature takes the arg-max and its probability", async () => {
    using tensor = torch.tensor(rows);
    const { ids, confidence } = await chooseTokens(tensor, keys, { temperature: 0, topK: 0, topP: 1, seed: 0 });
    rows.forEach((row, r) => {
      expect(ids[r]).toBe(row.indexOf(Math.max(...row)));
      expect(confidence[r]).toBeCloseTo(Math.max(...softmax(row)), 6);
    });
  });

  it("draws by (seed, position, pass): neither order nor company matters", async () => {
    const options = { temperature: 1.5, topK: 0, topP: 1, seed: 11 };
    const pick = async (order: number[]) => {
      using tensor = torch.tensor(order.map((r) => rows[r]));
      return (
        await chooseTokens(
          tensor,
          order.map((r) => keys[r]),
          options,
        )
      ).ids;
    };
    const all = await pick([0, 1, 2, 3, 4, 5]);
    expect(await pick([5, 3, 1])).toEqual([all[5], all[3], all[1]]);
    expect(await pick([2])).toEqual([all[2]]);
  });
});
