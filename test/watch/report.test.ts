import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readRun, uniqueNames, writeReport } from "../../lib/cli/report/run.js";
import { Curriculum } from "../../lib/train/index.js";
import { readReport } from "../../lib/train/sinks/report.js";
import { type ReportState, thinned } from "../../lib/train/sinks/report-data.js";
import { tinyModel, tinyStages } from "../train/tiny.js";
import { DIFFCODER, eventsUpTo, PLAIN, temporaryFolder, writeLog } from "./support.js";

interface Page {
  title: string;
  runs: { name: string; state: ReportState }[];
}

function dataOf(path: string): Page {
  const json = readFileSync(path, "utf8").match(/<script type="application\/json" id="run">(.*?)<\/script>/s)?.[1];
  return JSON.parse(json ?? "null") as Page;
}

describe("report", () => {
  it("of one run is that run's page, as training itself would have written it", async () => {
    const folder = temporaryFolder();
    const [out, page] = [join(folder, "run"), join(folder, "pages", "one.html")];
    using model = tinyModel();
    for await (const _ of new Curriculum(tinyStages()).run({ model, outputDir: out, seed: 3 }));
    await writeReport([out], { out: page });
    const written = readReport(page) as ReportState;
    const own = readReport(join(out, "report.html")) as ReportState;
    const log = readFileSync(join(out, "metrics.jsonl"), "utf8").trim().split("\n");
    const { time } = JSON.parse(log.at(-1) ?? "") as { time: string };
    expect(written).toEqual({ ...own, updatedAt: time });
    expect(Math.abs(Date.parse(own.updatedAt) - Date.parse(time))).toBeLessThan(10_000);
    expect(written).toMatchObject({ title: "run", state: "done", steps: 18 });
  });

  it("of a run of long ago says when that ended", async () => {
    const folder = temporaryFolder();
    const ended = "2025-03-01T12:00:59.000Z";
    const events = eventsUpTo(2).map((event, i) => ({ ...event, time: `2025-03-01T12:00:0${i}.000Z` }));
    writeLog(folder, [...events, { type: "done", globalStep: 2, tokens: 128, elapsed: 1, time: ended }]);
    expect((await readRun(folder)).state).toMatchObject({ state: "done", updatedAt: ended });
  });

  it("of several lays them over each other, by step, tokens and time", async () => {
    const folder = temporaryFolder();
    writeLog(join(folder, "a", "run"), eventsUpTo(60));
    writeLog(join(folder, "b", "run"), eventsUpTo(30, { ranks: 4, run: { seed: 4 } }));
    const page = join(folder, "page.html");
    await writeReport([join(folder, "a", "run"), join(folder, "b", "run", "metrics.jsonl")], { out: page });
    const { title, runs } = dataOf(page);
    expect(title).toBe("2 runs");
    expect(runs.map(({ name }) => name)).toEqual(["a/run", "b/run"]);
    expect(runs[0].state.rows).toHaveLength(60);
    expect(runs[0].state.rows[9]).toMatchObject({ step: 10, tokens: 640, elapsed: 5 });
    expect(runs[1].state.rows[0].mean).toMatchObject({ communication_share: 0.12, straggler: 0.8 });
    expect(runs[1].state.ranks?.map(({ rank, steps, slowest }) => [rank, steps, slowest])).toEqual([
      [0, 30, 0],
      [1, 30, 30],
      [2, 30, 0],
      [3, 30, 0],
    ]);
    const html = readFileSync(page, "utf8");
    expect(html).toContain("uPlot");
    expect(html).not.toMatch(/<(script|link|img)[^>]+(src|href)=/); // nothing of the network
    expect(html).not.toMatch(/\{\{[A-Z]+\}\}/);
  });

  it("reads a page where there is no log, and says where there is neither", async () => {
    const folder = temporaryFolder();
    const out = join(folder, "run");
    writeLog(out, eventsUpTo(30));
    const page = join(folder, "report.html");
    await writeReport([out], { out: page, title: "kept" });
    mkdirSync(join(folder, "moved"));
    copyFileSync(page, join(folder, "moved", "report.html"));
    expect((await readRun(join(folder, "moved"))).state).toMatchObject({ title: "kept", steps: 30 });
    expect((await readRun(page)).state.rows).toHaveLength(30);
    mkdirSync(join(folder, "empty"));
    await expect(readRun(join(folder, "empty"))).rejects.toThrow(
      /empty does not contain a run: it has neither metrics\.jsonl nor/,
    );
    await expect(readRun(join(folder, "nowhere"))).rejects.toThrow(/nowhere does not exist/);
    writeFileSync(join(folder, "other.html"), "<p>hello");
    await expect(readRun(join(folder, "other.html"))).rejects.toThrow(/other\.html is not a valid report of a run/);
  });

  it("of a long run keeps means when it is thinned", async () => {
    const folder = temporaryFolder();
    writeLog(folder, eventsUpTo(100));
    const { state } = await readRun(folder);
    const thin = thinned(state, 30);
    expect(thin.rows.length).toBeLessThanOrEqual(30);
    expect(thin.rows.reduce((sum, { count }) => sum + count, 0)).toBe(100);
    const mean = (report: ReportState) =>
      report.rows.reduce((sum, { count, mean }) => sum + count * mean.loss, 0) / 100;
    expect(mean(thin)).toBeCloseTo(mean(state), 9);
    expect(thin.rows.at(-1)).toMatchObject({ step: 100, tokens: 6400, elapsed: 50 });
    expect(state.rows).toHaveLength(100); // the report itself stays as it was
  });

  it("names runs by as much of their paths as tells them apart", () => {
    expect(uniqueNames(["runs/a", "runs/b/"])).toEqual(["a", "b"]);
    expect(uniqueNames(["x/run", "y/run/metrics.jsonl"])).toEqual(["x/run", "y/run"]);
    expect(uniqueNames(["runs/a", "runs/a"])).toEqual(["a (1)", "a (2)"]);
  });

  it("is a command", () => {
    const folder = temporaryFolder();
    writeLog(join(folder, "a"), eventsUpTo(10));
    writeLog(join(folder, "b"), eventsUpTo(10));
    const [program, ...args] = DIFFCODER;
    const run = (...words: string[]) =>
      spawnSync(program, [...args, "report", ...words], { cwd: folder, encoding: "utf8", env: PLAIN });
    const ended = run("a", "b", "--title", "A & B");
    expect(ended.stderr).toBe("");
    expect(ended.stdout).toBe("report.html\n");
    expect(readFileSync(join(folder, "report.html"), "utf8")).toContain("<title>A &amp; B · training report</title>");
    expect(run("a", "c")).toMatchObject({ status: 1, stderr: "error: c does not exist\n" });
  });
});
