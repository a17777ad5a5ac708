// Nonsense for every public operator, in a process of its own: whatever it is, the process survives.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { crashes } from "./children/fuzz-crashes.js";
import { runChild, scratchFolder } from "./support.js";

const folder = scratchFolder();

it.each([1, 2])("survives, seed %i", { timeout: 600_000 }, async (seed) => {
  const trace = join(folder, `trace-${seed}`);
  const { status, signal, output } = await runChild("fuzz.ts", [trace, String(seed), "6"]);
  expect([status, signal], `the last call was ${readFileSync(trace, "utf8")}\n${output.slice(-2000)}`).toEqual([
    0,
    null,
  ]);
  const { operators, calls, left, codes } = JSON.parse(output.trim().split("\n").at(-1) as string);
  expect(operators).toBeGreaterThan(700);
  expect(calls).toBeGreaterThan(6000);
  expect(left).toBe(0);
  expect(codes.ok).toBeGreaterThan(1000); // or the arguments would be too wild to get anywhere
  expect(codes.TORCH_INTERNAL).toBeUndefined();
});

it("few operators are left out", () => {
  expect(Object.keys(crashes).length).toBeLessThan(20);
});
