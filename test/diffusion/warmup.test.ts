import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { DiffusionError } from "../../lib/diffusion/errors.js";
import { advanceWarmup, maskRatioWarmup, maxMaskRatio, type WarmupState } from "../../lib/diffusion/warmup.js";

describe("mask-ratio warmup", () => {
  it("ramps as Eq. 10", () => {
    const warmup = maskRatioWarmup({ steps: 1000 });
    expect(maxMaskRatio(warmup, 0)).toBe(1e-3);
    expect(maxMaskRatio(warmup, 500)).toBe(1e-3 + (1 - 1e-3) * 0.5);
    expect(maxMaskRatio(warmup, 1000)).toBe(1);
    expect(maxMaskRatio(warmup, 5000)).toBe(1);
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 5000 }),
        fc.double({ min: 1e-6, max: 1, noNaN: true }),
        fc.nat(6000),
        (steps, initial, s) => {
          const expected = s >= steps ? 1 : initial + ((1 - initial) * s) / steps;
          expect(maxMaskRatio(maskRatioWarmup({ steps, initial }), s)).toBeCloseTo(expected, 12);
        },
      ),
    );
  });

  it("is off with no steps, and has the stated defaults", () => {
    expect(maxMaskRatio(maskRatioWarmup({ steps: 0 }), 0)).toBe(1);
    expect(maskRatioWarmup({ steps: 7 })).toEqual({
      steps: 7,
      initial: 1e-3,
      weighted: false,
      clip: false,
      fallback: false,
    });
  });

  it("names the option that is wrong", () => {
    expect(() => maskRatioWarmup({ steps: -1 })).toThrow(DiffusionError);
    expect(() => maskRatioWarmup({ steps: 10, initial: 0 })).toThrow(/initial/);
    expect(() => maskRatioWarmup({ steps: 10, innitial: 1 } as never)).toThrow(/innitial/);
  });

  it("without hold follows the step alone, also from the middle", () => {
    const warmup = maskRatioWarmup({ steps: 10 });
    expect(advanceWarmup(warmup, undefined, { step: 4, gradNorm: 1e9 }).progress).toBe(4);
  });
});

describe("the adaptive hold", () => {
  const warmup = maskRatioWarmup({ steps: 10, hold: { multiple: 3, reference: 0.1, limit: 6 } });
  const run = (norms: number[], from?: WarmupState) => {
    let state = from;
    const start = from ? from.step + 1 : 0;
    const states = norms.map((gradNorm, i) => {
      state = advanceWarmup(warmup, state, { step: start + i, gradNorm });
      return state;
    });
    return states;
  };

  it("waits while the gradient norm is above its multiple of the reference, then goes on", () => {
    expect(run([9, 9, 0.31, 0.3, 0.1, 0.5, 0.2]).map((s) => s.progress)).toEqual([0, 0, 0, 1, 2, 2, 3]);
  });

  it("waits for a gradient norm that is not a number", () => {
    expect(run([0.1, Number.NaN]).map((s) => s.progress)).toEqual([0, 0]);
  });

  it("never waits more than its limit", () => {
    const states = run(Array(30).fill(100));
    expect(states.at(-1)).toMatchObject({ held: 6, progress: 29 - 6 });
  });

  it("moves once per step, however many micro-batches there are", () => {
    const state = advanceWarmup(warmup, undefined, { step: 0 });
    const next = advanceWarmup(warmup, state, { step: 1, gradNorm: 0.1 });
    expect(advanceWarmup(warmup, next, { step: 1, gradNorm: 0.1 })).toEqual(next);
    expect(state.progress).toBe(0);
  });

  it("goes on from a saved state as if never stopped", () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 2, maxLength: 40 }),
        fc.nat(),
        (norms, at) => {
          const cut = 1 + (at % (norms.length - 1));
          const whole = run(norms).at(-1);
          const saved = JSON.parse(JSON.stringify(run(norms.slice(0, cut)).at(-1))) as WarmupState;
          expect(run(norms.slice(cut), saved).at(-1)).toEqual(whole);
        },
      ),
    );
  });

  it("takes the gradient norm before the stage as its reference, and says when there is none", () => {
    const automatic = maskRatioWarmup({ steps: 10, hold: { multiple: 2 } });
    expect(advanceWarmup(automatic, undefined, { step: 0, gradNorm: 0.12 }).reference).toBe(0.12);
    expect(() => advanceWarmup(automatic, undefined, { step: 0 })).toThrow(/reference/);
  });
});
