import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  commitConfigSchema,
  commitFromConfig,
  confidenceThreshold,
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
