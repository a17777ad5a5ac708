import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { width } from "../../lib/cli/canvas.js";
import { drawChart, plain, sparkline } from "../../lib/cli/watch/chart.js";
import { drawFrame, type FrameOptions } from "../../lib/cli/watch/frame.js";
import { readKeys } from "../../lib/cli/watch/full-screen.js";
import { formatMetric, metricNames, smoothed } from "../../lib/cli/watch/metric-view.js";
import { WatchedRun } from "../../lib/cli/watch/watched-run.js";
import { eventsUpTo, type Logged, stepEvent, temporaryFolder, writeLog } from "./support.js";

async function runOf(events: readonly Logged[]): Promise<WatchedRun> {
  const run = new WatchedRun(writeLog(temporaryFolder(), events));
  while (await run.read());
  return run;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: colours are control sequences
const COLOUR = /\x1b\[[0-9;]*m/g;

function frame(run: WatchedRun, changes: Partial<FrameOptions> = {}): string[] {
  const view = { metric: "loss", smoothing: 1, log: false };
  const place = { index: 1, of: 1 };
  const options = { columns: 80, rows: 24, view, now: Date.now(), place, keys: true, ...changes };
  return drawFrame(run, options).map((line) => line.replace(COLOUR, ""));
}

describe("a frame", () => {
  it("has exactly the screen's size, whatever that is and whatever the run has told", async () => {
    const runs = [
      await runOf(eventsUpTo(0)),
      await runOf(eventsUpTo(1)),
      await runOf(eventsUpTo(70)),
      await runOf(eventsUpTo(70, { ranks: 8, run: { model: "日本語".repeat(40) } })),
      await runOf([...eventsUpTo(50), { type: "failed", globalStep: 50, message: "\u001b[31mlong\n".repeat(50) }]),
      new WatchedRun("/nowhere"),
    ];
    const metrics = ["loss", "u_max", "evaluation/bits_per_byte", "none of it"];
    fc.assert(
      fc.property(
        fc.record({
          run: fc.constantFrom(...runs),
          columns: fc.integer({ min: 20, max: 240 }),
          rows: fc.integer({ min: 5, max: 70 }),
          metric: fc.constantFrom(...metrics),
          smoothing: fc.integer({ min: 0, max: 2 }),
          log: fc.boolean(),
          of: fc.integer({ min: 1, max: 3 }),
        }),
        ({ run, columns, rows, of, ...view }) => {
          const lines = frame(run, { columns, rows, view, place: { index: 1, of } });
          expect(lines).toHaveLength(rows);
          for (const line of lines) {
            expect(width(line)).toBe(columns);
            // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what must not be there
            expect(line).not.toMatch(/[\x00-\x1f\x7f-\x9f]/);
          }
        },
      ),
      { numRuns: 150 },
    );
  });

  it("says where the run stands", async () => {
    const skipped = stepEvent(71, { skipped: "not finite" });
    const warning = {
      type: "warning" as const,
      globalStep: 71,
      code: "STEP_SKIPPED" as const,
      message: "step 71 skipped",
    };
    const lines = frame(await runOf([...eventsUpTo(70), skipped, warning]), { columns: 100, rows: 40 });
    const text = lines.join("\n");
    expect(text).toMatch(/● training/);
    expect(text).toContain("5.6M parameters · cpu · 4 layers of 256");
    expect(text).toMatch(/✔ compress → cpt/);
    expect(text).toMatch(/━+─+ 51 % {2}31\/60 {2}15s left/);
    expect(text).toMatch(/rate +3\.0e-4/);
    expect(text).toMatch(/tokens +128\/s/);
    expect(text).toMatch(/saved step-60 at step 60, \d+s ago +1 skipped, the last at 71 \(not finite\)/);
    expect(text).toContain("warning: step 71 skipped");
    expect(text).toContain("sample at step 60 · 4 forwards");
    expect(text).toMatch(/def f60\(\):\s*\n +return 日本語␛\[2J/);
    expect(text).toMatch(/step 1 +step 71/);
    expect(lines.at(-1)).toMatch(/^q quit {3}← → metric {3}s smoothing {3}l log axis/);
  });

  it("marks a run that has been silent, and one that waits", async () => {
    const run = await runOf(eventsUpTo(10));
    expect(frame(run)[0]).not.toContain("silent");
    expect(frame(run, { now: Date.now() + 300_000 })[0]).toMatch(/silent for 5m/);
    expect(frame(new WatchedRun("/nowhere")).join("")).toContain("waiting for its log");
  });

  it("shows each rank, beside the chart or below it; of many the slowest", async () => {
    const eight = await runOf(
      eventsUpTo(30, {
        ranks: 8,
        run: { parallel: { replicate: 2, shard: 4, context: 1, tensor: 1, worldSize: 8, backend: "gloo" } },
      }),
    );
    const wide = frame(eight, { columns: 130, rows: 36 });
    expect(wide.join("\n")).toContain("replicate 2 x shard 4, 8 ranks (gloo)");
    expect(wide.filter((line) => /│|┤/.test(line) && /\d ms ▆+/.test(line))).toHaveLength(8);
    expect(wide.find((line) => line.includes("slowest"))).toMatch(/ 1 +900 ms ▆+ .*1 GiB/);
    expect(wide.join("\n")).toMatch(/comm\. +12 %/);
    const narrow = frame(eight, { columns: 70, rows: 34 });
    expect(narrow.filter((line) => /^ +\d +\d+ ms/.test(line)).length).toBeGreaterThanOrEqual(2);
    const many = frame(await runOf(eventsUpTo(30, { ranks: 64 })), { columns: 130, rows: 30 });
    expect(many.find((line) => line.includes("slowest"))).toMatch(/ 1 +900 ms/);
    expect(many.join("\n")).toMatch(/and \d+ more that were faster/);
  });
});

describe("a chart", () => {
  const options = {
    columns: 40,
    rows: 11,
    log: false,
    style: () => plain,
    formatX: String,
    formatY: (value: number) => String(value),
  };
  const pointsOf = (values: readonly number[]) => values.map((y, i) => ({ x: i, y, group: 0 }));
  const drawn = (values: readonly number[], changes: Partial<typeof options> = {}) =>
    drawChart(pointsOf(values), [], { ...options, ...changes }).map((line) => line.map(([text]) => text).join(""));

  it("goes from corner to corner", () => {
    const lines = drawn([0, 1, 2, 3]);
    expect(lines).toHaveLength(11);
    expect(lines[0]).toMatch(/^ *3 ┤ +[⠀-⣿]+$/);
    expect(lines[9]).toMatch(/^ *0 ┤[⠀-⣿]+ +$/);
    expect(lines[10]).toMatch(/^ +0 +3$/);
    const columns = lines.slice(0, 10).map((line) => line.search(/[⠁-⣿]/));
    expect(columns).toEqual([...columns].sort((a, b) => b - a)); // it only rises
  });

  it("is straight on a logarithmic axis where it grows by factors, and leaves out what has no logarithm", () => {
    const label = (value: number) => String(Math.round(value)).padStart(4);
    const curve = (lines: readonly string[]) => lines.slice(0, 10).map((line) => line.slice(6));
    const straight = drawn([1, 10, 100, 1000], { log: true, formatY: label });
    expect(straight[0]).toMatch(/^1000 ┤/);
    expect(curve(straight)).toEqual(curve(drawn([0, 1, 2, 3], { formatY: label })));
    expect(drawn([0, 0], { log: true }).join("")).toContain("nothing above zero");
  });

  it("is not flattened by one wild value behind it", () => {
    const values = Array.from({ length: 500 }, (_, i) => 1 + (i % 10) / 10);
    const behind = pointsOf(values.map((value, i) => (i === 77 ? 1e9 : value)));
    const lines = drawChart(pointsOf(values), behind, options).map((line) => line.map(([text]) => text).join(""));
    expect(Number.parseFloat(lines[0])).toBeLessThan(3);
  });

  it("says where there is nothing", () => {
    expect(drawn([]).join("")).toContain("nothing yet");
  });

  it("has sparklines", () => {
    expect(sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8)).toBe("▁▂▃▄▅▆▇█");
    expect(sparkline([5, 5], 4)).toBe("  ▄▄");
    expect(sparkline([], 3)).toBe("   ");
  });
});

describe("metrics", () => {
  it("come in a fixed order, evaluations last", async () => {
    const names = metricNames((await runOf(eventsUpTo(60))).report);
    expect(names[0]).toBe("loss");
    expect(names.at(-1)).toBe("evaluation/bits_per_byte");
    expect(names.indexOf("lr")).toBeLessThan(names.indexOf("u_max"));
  });

  it("are smoothed within a stage, and not over its end", () => {
    const points = [...Array(100).keys()].map((x) => ({ x, y: x < 50 ? 1 : 9, group: x < 50 ? 0 : 1 }));
    expect(smoothed(points, 0.1).map(({ y }) => y)).toEqual(points.map(({ y }) => expect.closeTo(y, 9)));
    const noisy = points.map((point, i) => ({ ...point, group: 0, y: i % 2 }));
    expect(smoothed(noisy, 0.1).at(-1)?.y).toBeCloseTo(0.5, 1);
    expect(smoothed(noisy, 0)).toEqual(noisy);
  });

  it.each([
    ["mfu", 0.3456, "34.6 %"],
    ["rss", 1.5 * 2 ** 30, "1.5 GiB"],
    ["step_seconds", 0.0123, "12.3 ms"],
    ["step_seconds", 4567, "1h 16m"],
    ["tokens_per_second", 12_345, "12.3k/s"],
    ["lr", 0.00031, "3.1e-4"],
    ["my_own", 1.23456, "1.235"],
  ])("are written with their unit: %s %d", (name, value, text) => {
    expect(formatMetric(name, value)).toBe(text);
  });
});

describe("keys", () => {
  it("are read, also several at once, and others are passed over", () => {
    expect(readKeys("q")).toEqual(["quit"]);
    expect(readKeys("s\x1b[Cx\x1b[5~\x1b[Dl\t\x1b[Z\x03")).toEqual([
      ...["smoothing", "next", "previous", "log", "next-run", "previous-run", "interrupt"],
    ]);
  });
});
