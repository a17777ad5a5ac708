import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { DiffusionError } from "../../lib/diffusion/errors.js";
import {
  clippedLinear,
  clipRate,
  cosineNoise,
  customNoise,
  isNoiseSchedule,
  linearNoise,
  noiseConfigSchema,
  noiseFromConfig,
  noiseSchema,
} from "../../lib/diffusion/noise.js";

const time = fc.double({ min: 1e-6, max: 1, noNaN: true });

describe("noise schedules", () => {
  it("linear is u = t with w = 1 / u (Eq. 4)", () => {
    fc.assert(
      fc.property(time, (t) => {
        expect(linearNoise().u(t)).toBe(t);
        expect(linearNoise().weight(t, t)).toBe(1 / t);
      }),
    );
    expect([linearNoise().clip, linearNoise().fallback]).toEqual([false, false]);
  });

  it("linear's epsilon is the smallest rate, and the weight is u' / u", () => {
    const noise = linearNoise({ epsilon: 1e-3 });
    expect(noise.u(0)).toBe(1e-3);
    expect(noise.u(1)).toBe(1);
    expect(noise.weight(0, noise.u(0))).toBeCloseTo(999, 9);
    expect(() => linearNoise({ epsilon: 1 })).toThrow(DiffusionError);
  });

  it("clips a block's rate to [1/B, 1], so w <= B and one masked token is expected (section 3.3)", () => {
    const noise = clippedLinear();
    expect([noise.clip, noise.fallback]).toEqual([true, true]);
    fc.assert(
      fc.property(time, fc.integer({ min: 1, max: 64 }), (t, size) => {
        const rate = clipRate(noise.u(t), size);
        expect(rate).toBe(Math.min(1, Math.max(t, 1 / size)));
        expect(size * rate).toBeGreaterThanOrEqual(1 - 1e-12);
        expect(noise.weight(t, rate)).toBe(1 / rate);
        expect(noise.weight(t, rate)).toBeLessThanOrEqual(size + 1e-9);
      }),
    );
  });

  it("derives a custom schedule's weight from its slope, given or numeric", () => {
    const square = customNoise("square", (t) => t * t);
    const given = customNoise("square", (t) => t * t, { slope: (t) => 2 * t });
    fc.assert(
      fc.property(fc.double({ min: 0.01, max: 1, noNaN: true }), (t) => {
        const w = given.weight(t, given.u(t));
        expect(w).toBeCloseTo(2 / t, 9);
        // One-sided at t = 1, so the difference quotient is off by its step.
        expect(Math.abs(square.weight(t, square.u(t)) / w - 1)).toBeLessThan(1e-4);
        const bump = cosineNoise();
        const numeric = customNoise("cosine", bump.u);
        expect(Math.abs(numeric.weight(t, bump.u(t)) / bump.weight(t, bump.u(t)) - 1)).toBeLessThan(1e-3);
      }),
    );
  });

  it("refuses functions that are no schedule", () => {
    for (const u of [(t: number) => 1 - t, (t: number) => 2 * t, (t: number) => t - 0.1, () => Number.NaN]) {
      expect(() => customNoise("bad", u)).toThrow(/bad: u/);
    }
  });

  it("reads a schedule from configuration, by name or with options", () => {
    expect(noiseFromConfig("clipped-linear").name).toBe("clipped-linear");
    expect(noiseFromConfig({ name: "clipped-linear", fallback: false })).toMatchObject({ clip: true, fallback: false });
    expect(noiseSchema.parse({ name: "linear", epsilon: 0.25 }).u(0)).toBe(0.25);
    expect(noiseSchema.parse(cosineNoise()).name).toBe("cosine");
    expect(isNoiseSchedule(noiseSchema.parse("cosine"))).toBe(true);
    const wrong = noiseConfigSchema.safeParse({ name: "linear", epsilom: 1 });
    expect(wrong.success).toBe(false);
    expect(noiseSchema.safeParse("sigmoid").error?.message).toContain("clipped-linear");
  });
});
