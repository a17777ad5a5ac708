import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Bits, measure } from "./measure.js";

// Written by write-bits.ts. They change with libtorch, with the machine's instruction set and with a change that
// means to change numbers, and never with one that only moves code.
const golden: Bits = JSON.parse(readFileSync(join(import.meta.dirname, "../fixtures/bits.json"), "utf8"));
const folder = mkdtempSync(join(tmpdir(), "diffcoder-bits-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let measured: Bits;
beforeAll(async () => {
  measured = await measure(folder);
}, 120_000);
const isSameMachine = () => JSON.stringify(measured.machine) === JSON.stringify(golden.machine);

/** Bit for bit on the machine they were measured on, else as near as rounding allows. */
function expectSame(numbers: readonly number[], wanted: readonly number[]): void {
  if (isSameMachine()) {
    expect(numbers).toEqual(wanted);
    return;
  }
  expect(numbers).toHaveLength(wanted.length);
  for (const [i, number] of numbers.entries()) {
    expect(Math.abs(number - wanted[i]), `number ${i}`).toBeLessThan(1e-3 * Math.max(1, Math.abs(wanted[i])));
  }
}

describe("the numbers of before", () => {
  it.each(Object.keys(golden.losses))("30 steps or a resumed run: %s", (name) => {
    expectSame(measured.losses[name].flat(), golden.losses[name].flat());
  });

  it("a checkpoint's bytes", () => {
    expect(Object.keys(measured.checkpoint)).toEqual(Object.keys(golden.checkpoint));
    if (isSameMachine()) expect(measured.checkpoint).toEqual(golden.checkpoint);
  });

  it.each(golden.texts.map((_, i) => i))("greedy and seeded text %i with its log-probabilities", (i) => {
    expect(measured.texts[i].ids).toEqual(golden.texts[i].ids);
    expect(measured.texts[i].passes).toBe(golden.texts[i].passes);
    expectSame(measured.texts[i].logprobs, golden.texts[i].logprobs);
  });
});
