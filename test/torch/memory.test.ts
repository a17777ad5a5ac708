// Nothing leaks: in scopes at once, outside of them when the garbage collector gets to run, in worker threads at their end.
import { describe, expect, it } from "vitest";
import * as torch from "../../lib/torch/index.js";
import { addonPath } from "../../lib/torch/native.js";
import { runChild } from "./support.js";

const lastLine = (output: string) => JSON.parse(output.trim().split("\n").at(-1) as string);

describe("memory()", () => {
  it("counts tensors, and the bytes of each storage once", () => {
    torch.scope(() => {
      const before = torch.memory();
      const x = torch.zeros([1000]);
      const view = x.index(torch.slice(0, 10));
      const other = torch.zeros([10], { dtype: "float64" });
      const after = torch.memory();
      expect(after.tensors - before.tensors).toBe(3);
      expect(after.host - before.host).toBe(4000 + 80);
      expect(after.device).toBe(before.device);
      x.dispose();
      expect(torch.memory().host - before.host).toBe(4080);
      view.dispose();
      expect(torch.memory().host - before.host).toBe(80);
      expect(other.numel()).toBe(10);
    });
  });
});

describe("in a process of its own", () => {
  it("a million operators in scopes keep memory flat", { timeout: 240_000 }, async () => {
    const { status, output } = await runChild("soak.ts");
    expect(status, output).toBe(0);
    const { operators, start, end, grown } = lastLine(output);
    expect(operators).toBeGreaterThanOrEqual(1_000_000);
    expect(end.tensors).toBe(start.tensors);
    expect(end.host).toBe(start.host);
    expect(grown, "MB of RSS").toBeLessThan(50);
  });

  it("the garbage collector frees what no scope does", { timeout: 600_000 }, async () => {
    const { status, output } = await runChild("collected.ts");
    expect(status, output).toBe(0);
    const { synchronous, left, kept } = lastLine(output);
    expect(synchronous).toBe(20_000); // small ones stay until a task ends
    expect(left).toBeLessThan(1_000);
    expect(kept).toEqual([1, 1]);
  });

  it("a synchronous loop outside every scope does not fill the memory", { timeout: 240_000 }, async () => {
    const { status, output } = await runChild("pressure.ts");
    expect(status, output).toBe(0);
    const { megabytes, tensors, kept } = lastLine(output);
    expect(megabytes).toBeLessThan(2000); // of 6000 that the loop makes
    expect(tensors).toBeLessThan(400);
    expect(kept).toBe(2 ** 20);
  });

  // DIFFCODER_TERMINATIONS=1000 for the long version.
  const terminations = Number(process.env.DIFFCODER_TERMINATIONS ?? 60);
  it(`${terminations} workers end while they load the addon`, { timeout: 60_000 + terminations * 2000 }, async () => {
    const { status, signal, output } = await runChild("terminations.ts", [addonPath(), String(terminations)]);
    expect([status, signal], output).toEqual([0, null]);
    const { ended, loaded } = lastLine(output);
    expect(ended).toBe(terminations);
    expect(loaded).toBeLessThan(terminations);
  });

  it("workers compute on their own, and can be stopped anywhere", { timeout: 600_000 }, async () => {
    const { status, signal, output } = await runChild("workers.ts");
    expect([status, signal], output).toEqual([0, null]);
    const { answers, expected, stopped, mine, tensors } = lastLine(output);
    expect(answers.map((answer: { value: number }) => answer.value)).toEqual(expected);
    for (const answer of answers) expect(answer.tensors).toBe(0);
    expect(stopped).toBe(6);
    expect(mine).toEqual([1, 1, 1]);
    expect(tensors).toBe(1);
  });
});
