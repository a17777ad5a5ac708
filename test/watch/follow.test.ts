import { appendFileSync, mkdirSync, renameSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { WatchedRun } from "../../lib/cli/watch/watched-run.js";
import { Curriculum, jsonl } from "../../lib/train/index.js";
import { tinyModel, tinyStages } from "../train/tiny.js";
import { eventsUpTo, lineOf, stepEvent, temporaryFolder, writeLog } from "./support.js";

const readAll = async (run: WatchedRun) => {
  while (await run.read());
};

describe("a watched run", () => {
  it("is waited for, and followed as it is written, line by line and byte by byte", async () => {
    const out = join(temporaryFolder(), "later");
    const run = new WatchedRun(out);
    await readAll(run);
    expect(run).toMatchObject({ waiting: true, isOver: false, step: undefined });
    const path = writeLog(out, eventsUpTo(3));
    await readAll(run);
    expect(run.waiting).toBe(false);
    expect(run.step?.globalStep).toBe(3);
    expect(run.secondsLeft).toBeCloseTo((37 + 120) * 0.5); // a step of the second stage computes twice the positions
    const line = Buffer.from(lineOf({ ...stepEvent(4), name: "ü" }));
    const cut = line.indexOf(0xc3) + 1; // between the bytes of a letter
    appendFileSync(path, line.subarray(0, cut));
    await readAll(run);
    expect(run.step?.globalStep).toBe(3);
    appendFileSync(path, line.subarray(cut));
    await readAll(run);
    expect(run.step).toMatchObject({ globalStep: 4, name: "ü" });
    expect(run.report.rows).toHaveLength(4);
  });

  it("knows checkpoints, samples, skipped steps and the end", async () => {
    const out = temporaryFolder();
    const events = eventsUpTo(60);
    const path = writeLog(out, [...events, stepEvent(61, { skipped: "not finite" })]);
    const run = new WatchedRun(path);
    await readAll(run);
    expect(run.checkpoint).toMatchObject({ name: "step-60", step: 60 });
    expect(Date.now() - (run.checkpoint?.at ?? 0)).toBeLessThan(60_000);
    expect(run.sample?.samples[0].prompt).toBe("def f60(");
    expect(run.skipped).toEqual([{ step: 61, cause: "not finite" }]);
    expect(run.stage).toMatchObject({ index: 1, name: "cpt", step: 21, steps: 60 });
    appendFileSync(path, lineOf({ type: "failed", globalStep: 61, message: "gone" }));
    await readAll(run);
    expect(run.isOver).toBe(true);
    expect(run.report).toMatchObject({ state: "failed", message: "gone" });
  });

  it("begins anew when the log is cut or replaced, and passes over lines that are none", async () => {
    const out = temporaryFolder();
    const path = writeLog(out, eventsUpTo(50));
    const run = new WatchedRun(out);
    await readAll(run);
    expect(run.step?.globalStep).toBe(50);
    truncateSync(path, 0);
    appendFileSync(
      path,
      `${eventsUpTo(5).map(lineOf).join("")}\nnonsense\nnull\n{"type":"step","globalStep":6}\n{"type":"new kind","globalStep":6}\n`,
    );
    await readAll(run);
    expect(run.report.rows.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5]);
    // As a run that goes on does it: everything up to the checkpoint, then the new start, under the same name.
    writeFileSync(`${path}.tmp`, eventsUpTo(45).map(lineOf).join(""));
    renameSync(`${path}.tmp`, path);
    await readAll(run);
    expect(run.step?.globalStep).toBe(45);
    expect(run.checkpoint?.step).toBe(40);
  });

  it("shows what the sink of a real run writes, also after a resume", async () => {
    const out = temporaryFolder();
    const run = new WatchedRun(out);
    const train = async (resume: boolean, until: number) => {
      using model = tinyModel();
      const sinks = [jsonl(join(out, "metrics.jsonl"))];
      for await (const event of new Curriculum(tinyStages()).run({ model, outputDir: out, seed: 3, sinks, resume })) {
        if (event.type === "step") await readAll(run);
        if (event.type === "step" && event.globalStep === until) break;
      }
      await readAll(run);
    };
    await train(false, 9);
    expect(run.step?.globalStep).toBe(9);
    expect(run.isOver).toBe(false);
    await train(true, 99);
    expect(run.report.rows.map(({ step }) => step)).toEqual(Array.from({ length: 18 }, (_, i) => i + 1));
    expect(run.report.state).toBe("done");
    expect(run.checkpoint).toMatchObject({ name: "final", step: 18 });
  });

  it("says what cannot be read", async () => {
    const out = temporaryFolder();
    mkdirSync(join(out, "metrics.jsonl"));
    await expect(new WatchedRun(out).read()).rejects.toThrow(/cannot read .*metrics\.jsonl: it is a folder/);
  });

  it("reads a log of many megabytes in pieces, and stays small", async () => {
    const out = temporaryFolder();
    const events = eventsUpTo(1);
    const step = stepEvent(1);
    const lines = Array.from({ length: 20_000 }, (_, i) =>
      lineOf({ ...step, globalStep: i + 1, step: i + 1, steps: 20_000 }),
    );
    const path = writeLog(out, events.slice(0, 2));
    appendFileSync(path, lines.join(""));
    const run = new WatchedRun(out);
    let pieces = 1;
    while (await run.read()) pieces++;
    expect(pieces).toBeGreaterThan(1);
    expect(run.step?.globalStep).toBe(20_000);
    expect(run.report.rows.length).toBeLessThanOrEqual(4000);
    expect(run.report.rows.reduce((sum, { count }) => sum + count, 0)).toBe(20_000);
  });
});
