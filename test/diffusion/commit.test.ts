import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  commitConfigSchema,
  commitFromConfig,
  confidenceFactor,
  confidenceThreshold,
  entropyBound,
  hybridRule,
  staticSchedule,
} from "../../lib/diffusion/commit.js";

const confidences = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 1, maxLength: 32 });

describe("static schedule", () => {
  it("commits masked / steps per pass, the remainder first, the surest tokens, all by the last pass", () => {
    fc.assert(
      fc.property(confidences, fc.integer({ min: 1, max: 40 }), (values, steps) => {
        const rule = staticSchedule({ steps });
        const initiallyMasked = values.length;
        const passes = Math.min(steps, initiallyMasked);
        let left = [...values.keys()];
        const counts: number[] = [];
        for (let step = 0; left.length > 0; step++) {
          const confidence = Float64Array.from(left, (i) => values[i]);
          const chosen = rule.choose(confidence, { step, initiallyMasked });
          const lowest = Math.min(...chosen.map((k) => confidence[k]));
          const others = left.filter((_, k) => !chosen.includes(k));
          expect(others.every((i) => values[i] <= lowest)).toBe(true);
          counts.push(chosen.length);
          left = others;
        }
        expect(counts.length).toBe(passes);
        const share = Math.floor(initiallyMasked / passes);
        const remainder = initiallyMasked % passes;
        expect(counts).toEqual(Array.from({ length: passes }, (_, s) => share + (s < remainder ? 1 : 0)));
      }),
    );
  });

  it("prefers the earlier position in a tie", () => {
    const confidence = Float64Array.of(0.2, 0.9, 0.9, 0.9);
    expect(staticSchedule({ steps: 2 }).choose(confidence, { step: 0, initiallyMasked: 4 })).toEqual([1, 2]);
  });

  it("refuses steps that are no number of passes", () => {
    for (const steps of [0, -1, 1.5, Number.NaN]) expect(() => staticSchedule({ steps })).toThrow(/steps/);
  });
});

describe("threshold", () => {
  it("commits all above it, and at least the surest one", () => {
    fc.assert(
      fc.property(confidences, fc.double({ min: 0, max: 1, noNaN: true }), (values, threshold) => {
        const confidence = Float64Array.from(values);
        const chosen = confidenceThreshold(threshold).choose(confidence, { step: 0, initiallyMasked: values.length });
        const above = [...values.keys()].filter((i) => values[i] > threshold);
        expect(chosen).toEqual(above.length > 0 ? above : [values.indexOf(Math.max(...values))]);
      }),
    );
  });

  it("refuses what is no probability", () => {
    for (const value of [-0.1, 1.1, Number.NaN]) expect(() => confidenceThreshold(value)).toThrow(/threshold/);
  });
});

describe("configuration", () => {
  it("makes the rule it names", () => {
    expect(commitFromConfig({ rule: "static", steps: 2 }).name).toBe("static");
    expect(commitFromConfig({ rule: "threshold", value: 0.9 }).name).toBe("threshold");
    expect(commitConfigSchema.safeParse({ rule: "threshold" }).success).toBe(false);
    expect(commitConfigSchema.safeParse({ rule: "static", stepz: 3 }).success).toBe(false);
  });
});

describe("hybrid", () => {
  it("commits what the schedule or the threshold would, whichever is more", () => {
    const unit = fc.double({ min: 0, max: 1, noNaN: true });
    fc.assert(
      fc.property(confidences, unit, fc.integer({ min: 1, max: 8 }), fc.nat(4), (values, value, steps, step) => {
        const confidence = Float64Array.from(values);
        const state = { step, initiallyMasked: values.length };
        const parts = [staticSchedule({ steps }), confidenceThreshold(value)].map((rule) =>
          rule.choose(confidence, state),
        );
        const chosen = hybridRule({ value, steps }).choose(confidence, state);
        expect(parts).toContainEqual(chosen);
        expect(chosen.length).toBe(Math.max(...parts.map(({ length }) => length)));
      }),
    );
  });
});

describe("factor", () => {
  const state = { step: 0, initiallyMasked: 4 };

  it("commits the n surest, n the largest with (n + 1)(1 - c_n) < factor", () => {
    // (n + 1)(1 - c_n) by rising n: 2 * 0.01, 3 * 0.1, 4 * 0.2, 5 * 0.7
    const confidence = Float64Array.of(0.8, 0.99, 0.3, 0.9);
    expect(confidenceFactor(0.01).choose(confidence, state)).toEqual([1]);
    expect(confidenceFactor(0.31).choose(confidence, state)).toEqual([1, 3]);
    expect(confidenceFactor(0.81).choose(confidence, state)).toEqual([0, 1, 3]);
    expect(confidenceFactor(4).choose(confidence, state)).toEqual([0, 1, 2, 3]);
  });

  it("commits at least one, and more with a larger factor", () => {
    const factor = fc.double({ min: 0.01, max: 20, noNaN: true });
    fc.assert(
      fc.property(confidences, factor, factor, (values, a, b) => {
        const confidence = Float64Array.from(values);
        const [few, many] = [Math.min(a, b), Math.max(a, b)].map((f) => confidenceFactor(f).choose(confidence, state));
        expect(few.length).toBeGreaterThan(0);
        expect(few.every((k) => many.includes(k))).toBe(true);
      }),
    );
    expect(() => confidenceFactor(0)).toThrow(/above 0/);
  });
});

describe("entropy bound", () => {
  it("commits the largest set by rising entropy whose sum less its largest is within the bound", () => {
    const entropies = fc.array(fc.double({ min: 0, max: 4, noNaN: true }), { minLength: 1, maxLength: 16 });
    fc.assert(
      fc.property(entropies, fc.double({ min: 0, max: 8, noNaN: true }), (values, bound) => {
        const state = { step: 0, initiallyMasked: values.length, entropy: Float64Array.from(values) };
        const chosen = entropyBound(bound).choose(new Float64Array(values.length), state);
        const order = [...values.keys()].sort((a, b) => values[a] - values[b] || a - b);
        const cost = (n: number) => order.slice(0, n - 1).reduce((sum, i) => sum + values[i], 0);
        const n = Math.max(...[...values.keys()].map((i) => i + 1).filter((count) => cost(count) <= bound));
        expect(chosen).toEqual(order.slice(0, n).sort((a, b) => a - b));
      }),
    );
  });

  it("needs entropies and a bound that is none below zero", () => {
    expect(() => entropyBound(1).choose(Float64Array.of(1), { step: 0, initiallyMasked: 1 })).toThrow(
      /needs state\.entropy/,
    );
    expect(() => entropyBound(-1)).toThrow(/negative/);
  });
});
