import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  chain,
  constant,
  cosineDecay,
  decayTo,
  NnError,
  type Schedule,
  scaled,
  scheduleFrom,
  scheduleSchema,
  warmupStable,
  warmupStableDecay,
} from "../../lib/nn/index.js";
import { fixture } from "./golden.js";

interface Golden {
  steps: number;
  warmup: number;
  decay: number;
  floor: number;
  wsd: Record<"linear" | "cosine" | "1-sqrt", number[]>;
  cosine: number[];
}
const golden = JSON.parse(readFileSync(fixture("optim/schedules.json"), "utf8")) as Golden;
const { steps, warmup, decay, floor } = golden;

function rates(schedule: Schedule, total: number, previous?: number): number[] {
  return Array.from({ length: total }, (_, step) => schedule(step, { steps: total, previous }));
}

/** transformers warms up from 0, one step behind ours. */
function expected(theirs: number[], step: number): number {
  return step < warmup ? theirs[step + 1] : theirs[step];
}

describe("schedules against transformers", () => {
  it.each([
    ["linear", "linear"],
    ["cosine", "cosine"],
    ["sqrt", "1-sqrt"],
  ] as const)("warmupStableDecay with %s decay", (shape, name) => {
    const found = rates(warmupStableDecay(1, { warmup, decay, shape }), steps);
    for (const [step, rate] of found.entries()) expect(rate).toBeCloseTo(expected(golden.wsd[name], step), 12);
  });

  it("cosine with a floor", () => {
    const found = rates(cosineDecay(1, { warmup, min: floor }), steps);
    for (const [step, rate] of found.entries()) expect(rate).toBeCloseTo(expected(golden.cosine, step), 12);
  });
});

describe("schedules", () => {
  it("warmupStable rises to the rate in `warmup` steps, none of them idle", () => {
    expect(rates(warmupStable(3, { warmup: 3 }), 5)).toEqual([1, 2, 3, 3, 3]);
    expect(rates(warmupStable(1, { warmup: 0.5 }), 4)).toEqual([0.5, 1, 1, 1]);
    expect(rates(warmupStable(1, { warmup: 0 }), 2)).toEqual([1, 1]);
  });

  it("decayTo starts from the stage before, and its last step is one short of the end", () => {
    expect(rates(decayTo(0), 4, 8)).toEqual([8, 6, 4, 2]);
    expect(rates(decayTo(2, { from: 10 }), 4)).toEqual([10, 8, 6, 4]);
    expect(() => decayTo(0)(0, { steps: 4 })).toThrow(/give a rate/);
  });

  it("constant repeats, or goes on", () => {
    expect(rates(constant(2), 2, 5)).toEqual([2, 2]);
    expect(rates(constant(), 2, 5)).toEqual([5, 5]);
    expect(() => constant()(0, { steps: 1 })).toThrow(NnError);
  });

  it("chains hand the last rate on", () => {
    const schedule = chain([warmupStable(4, { warmup: 2 }), 4], [constant(), 2], [decayTo(0)]);
    expect(rates(schedule, 10)).toEqual([2, 4, 4, 4, 4, 4, 4, 3, 2, 1]);
    expect(rates(scaled(constant(4), 0.25), 1)).toEqual([1]);
    expect(() => chain()).toThrow(NnError);
    expect(() => chain([constant(1)], [constant(2)])).toThrow(/needs a duration/);
  });

  it("refuses numbers that are none", () => {
    for (const lr of [-1, Number.NaN, Number.POSITIVE_INFINITY]) expect(() => warmupStable(lr)).toThrow(NnError);
    for (const duration of [-1, 1.5, Number.NaN]) expect(() => cosineDecay(1, { warmup: duration })).toThrow(NnError);
  });

  it("stays within its bounds, for any lengths", () => {
    const shape = fc.constantFrom("linear", "cosine", "sqrt" as const);
    const duration = fc.oneof(fc.integer({ min: 1, max: 50 }), fc.double({ min: 0, max: 0.99, noNaN: true }));
    const total = fc.integer({ min: 1, max: 100 });
    fc.assert(
      fc.property(shape, duration, duration, total, (kind, rise, fall, count) => {
        for (const schedule of [
          warmupStableDecay(1, { warmup: rise, decay: fall, shape: kind as "linear", min: 0.1 }),
          cosineDecay(1, { warmup: rise, min: 0.1 }),
        ]) {
          for (const rate of rates(schedule, count)) {
            expect(rate).toBeGreaterThan(0);
            expect(rate).toBeLessThanOrEqual(1 + 1e-12);
          }
        }
      }),
    );
  });
});

describe("schedules as data", () => {
  it("makes the same rates as the functions", () => {
    const cases: [unknown, Schedule][] = [
      [0.5, constant(0.5)],
      [{ type: "warmup-stable", lr: 1, warmup: 4 }, warmupStable(1, { warmup: 4 })],
      [{ type: "decay-to", min: 0.1, shape: "sqrt" }, decayTo(0.1, { shape: "sqrt" })],
      [{ type: "warmup-stable-decay", lr: 1, decay: 0.5 }, warmupStableDecay(1, { decay: 0.5 })],
      [{ type: "cosine", lr: 1, warmup: 2, min: 0.2 }, cosineDecay(1, { warmup: 2, min: 0.2 })],
      [{ type: "constant" }, constant()],
    ];
    for (const [config, schedule] of cases) {
      const made = scheduleFrom(scheduleSchema.parse(config));
      expect(rates(made, 10, 1)).toEqual(rates(schedule, 10, 1));
    }
  });

  it("refuses unknown keys and values", () => {
    for (const config of [
      { type: "cosin", lr: 1 },
      { type: "cosine" },
      { type: "cosine", lr: 1, warm: 2 },
      { type: "cosine", lr: 1, warmup: 1.5 },
      -1,
    ]) {
      expect(scheduleSchema.safeParse(config).success).toBe(false);
    }
  });
});
