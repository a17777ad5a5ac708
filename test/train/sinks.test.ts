import { appendFileSync, existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Writable } from "node:stream";
import { describe, expect, it } from "vitest";
import { jsonl, report, type Sink, type StepEvent, type TrainEvent, terminal } from "../../lib/train/index.js";
import { readReport } from "../../lib/train/sinks/report.js";
import { addToReport, newReport } from "../../lib/train/sinks/report-data.js";
import { diskFull, watchWrites } from "./faults.js";
import { collect, stepsOf, temporaryFolder, tinyModel, tinyStages } from "./support.js";

async function wholeRun(out: string): Promise<TrainEvent[]> {
  using model = tinyModel();
  return await collect(tinyStages(), { model, outputDir: out, seed: 3, checkpointEvery: { steps: 2 } });
}

const linesOf = (out: string) =>
  readFileSync(join(out, "metrics.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as TrainEvent & { time: string });

class Memory extends Writable {
  text = "";
  isTTY?: boolean;
  columns = 200;
  override _write(chunk: Buffer, _: string, done: () => void) {
    this.text += chunk.toString();
    done();
  }
  // What cli-progress asks of a terminal.
  cursorTo() {}
  moveCursor() {}
  clearLine() {}
}

describe("metrics.jsonl", () => {
  it("has a line for every event", async () => {
    const out = temporaryFolder();
    const events = await wholeRun(out);
    const lines = linesOf(out);
    expect(lines.map(({ time: _, ...event }) => event)).toEqual(JSON.parse(JSON.stringify(events)));
    expect(Number.isNaN(Date.parse(lines[0].time))).toBe(false);
    const step = lines.find(({ type }) => type === "step") as StepEvent;
    expect(Object.keys(step.metrics)).toEqual(
      expect.arrayContaining(["loss", "grad_norm", "lr", "tokens_per_second", "live_tensors", "rss"]),
    );
  });

  it("has no step twice after a resume, although the log was ahead of the checkpoint and its last line torn", async () => {
    const out = temporaryFolder();
    const path = join(out, "metrics.jsonl");
    {
      using model = tinyModel();
      await collect(
        tinyStages(),
        { model, outputDir: out, seed: 3 },
        ({ type, ...event }) => type === "step" && (event as StepEvent).globalStep === 9,
      );
    }
    const ahead = { type: "step", globalStep: 10, stage: 1, name: "cpt", step: 4, steps: 8, metrics: { loss: 77 } };
    appendFileSync(path, `${JSON.stringify(ahead)}\n{"type":"step","globalSt`);
    using model = tinyModel();
    await collect(tinyStages(), { model, outputDir: out, seed: 3, resume: true });
    const steps = linesOf(out).filter((event) => event.type === "step");
    expect(steps.map(({ globalStep }) => globalStep)).toEqual(Array.from({ length: 18 }, (_, i) => i + 1));
    expect(steps.map(({ metrics }) => metrics.loss)).not.toContain(77);
    expect(linesOf(out).filter(({ type }) => type === "start")).toHaveLength(2);
  });

  it("begins anew with a new run", async () => {
    const out = temporaryFolder();
    writeFileSync(join(out, "metrics.jsonl"), "something\n");
    await wholeRun(out);
    expect(stepsOf(linesOf(out))).toHaveLength(18);
  });

  it("a full disk tears no line and ends no run: one warning, and the log goes on", async () => {
    const out = temporaryFolder();
    using model = tinyModel();
    let watch: Disposable | undefined;
    const events = await collect(
      tinyStages().slice(0, 1),
      { model, outputDir: out, sinks: [jsonl(join(out, "metrics.jsonl"))] },
      (event) => {
        if (event.type === "step" && event.step === 2) {
          watch = watchWrites((_, call) => {
            if (call === "writeSync") throw diskFull(call);
          });
        }
        if (event.type === "step" && event.step === 4) watch?.[Symbol.dispose]();
        return false;
      },
    );
    expect(events.filter(({ type }) => type === "warning")).toMatchObject([
      { code: "SINK", message: expect.stringMatching(/metrics\.jsonl: ENOSPC/) },
    ]);
    expect(stepsOf(linesOf(out)).map(({ step }) => step)).toEqual([1, 2, 5, 6]);
  });
});

describe("report.html", () => {
  const withHooks = () => {
    const [first, second, third] = tinyStages();
    const sample = { every: 3, run: () => [{ prompt: "def f(", text: "x):</script><b>bold", note: "4 forwards" }] };
    return [{ ...first, sample, evaluate: { every: 2, run: () => ({ bits_per_byte: 2.5 }) } }, second, third];
  };

  it("holds the run's data, and nothing of the network", async () => {
    const out = temporaryFolder();
    using model = tinyModel();
    const events = await collect(withHooks(), { model, outputDir: out, seed: 3 });
    const html = readFileSync(join(out, "report.html"), "utf8");
    const state = readReport(join(out, "report.html"));
    expect(state).toMatchObject({
      state: "done",
      steps: 18,
      tokens: 1152,
      run: { device: "cpu", parameters: model.numParameters() },
    });
    expect(state?.stages.map(({ name, begin, end }) => [name, begin, end])).toEqual([
      ["compress", 0, 6],
      ["cpt", 6, 14],
      ["anneal", 14, 18],
    ]);
    const losses = stepsOf(events).map(({ metrics }) => metrics.loss);
    for (const [i, row] of (state?.rows ?? []).entries()) expect(row.mean.loss).toBeCloseTo(losses[i], 4);
    expect(state?.rows).toHaveLength(18);
    expect(state?.rows[9].mean).toMatchObject({ u_max: expect.any(Number), masked_share: expect.any(Number) });
    expect(state?.samples[0].samples[0].text).toBe("x):</script><b>bold");
    expect(state?.evaluations).toHaveLength(3);
    expect(state?.checkpoints.map(({ name }) => name)).toEqual(["pre-anneal", "final"]);
    expect(html.match(/<\/script>/g)).toHaveLength(3); // a sample's text ends no script
    expect(html).toContain("uPlot");
    expect(html).not.toMatch(/<(script|link|img)[^>]+(src|href)=/);
    expect(html).not.toMatch(/\{\{[A-Z]+\}\}/);
  });

  it("goes on where it was after a resume", async () => {
    const out = temporaryFolder();
    {
      using model = tinyModel();
      await collect(
        withHooks(),
        { model, outputDir: out, seed: 3 },
        (event) => event.type === "step" && event.globalStep === 9,
      );
    }
    expect(readReport(join(out, "report.html"))).toMatchObject({ state: "stopped", steps: 9 });
    using model = tinyModel();
    await collect(withHooks(), { model, outputDir: out, seed: 3, resume: true });
    const state = readReport(join(out, "report.html"));
    expect(state?.rows.map(({ step }) => step)).toEqual(Array.from({ length: 18 }, (_, i) => i + 1));
    expect(state?.stages.map(({ name }) => name)).toEqual(["compress", "cpt", "anneal"]);
    expect(state?.samples).toHaveLength(2);
  });

  it("says when and why a run failed", async () => {
    const out = temporaryFolder();
    using model = tinyModel();
    const [first] = tinyStages();
    const failing = {
      ...first,
      objective: () => {
        throw new Error("the objective broke");
      },
    };
    await expect(collect([failing], { model, outputDir: out })).rejects.toThrow("the objective broke");
    expect(readReport(join(out, "report.html"))).toMatchObject({ state: "failed" });
    expect(readReport(join(out, "report.html"))?.message).toMatch(/^stage '.*the objective broke/);
  });

  it("stays small in a long run, and keeps means and peaks", () => {
    const state = newReport("long");
    const info = { name: "a", kind: "k", steps: 100_000, globalBatchSize: 1, seqLen: 1, positionsPerToken: 1 };
    const at = (globalStep: number) => ({ stage: 0, name: "a", step: globalStep, globalStep });
    addToReport(state, { type: "stage-start", ...at(0), info });
    for (let step = 1; step <= 100_000; step++) {
      const metrics = { loss: step % 2, grad_norm: step === 31_337 ? 1e6 : 1, lr: 0.5 };
      addToReport(state, { type: "step", ...at(step), steps: 100_000, tokens: step, elapsed: step, metrics });
    }
    expect(state.rows.length).toBeLessThanOrEqual(4000);
    expect(state.rows.reduce((sum, { count }) => sum + count, 0)).toBe(100_000);
    expect(state.rows.reduce((sum, { count, mean }) => sum + count * mean.loss, 0) / 100_000).toBeCloseTo(0.5, 6);
    expect(Math.max(...state.rows.map(({ peak }) => peak.grad_norm))).toBe(1e6);
    expect(state.rows.at(-1)?.step).toBe(100_000);
  });

  it("a write that fails leaves the one before", async () => {
    const out = temporaryFolder();
    const path = join(out, "report.html");
    const sink = report(path, { interval: 0 });
    const run = { parameters: 1, model: "m", device: "cpu", seed: 0, stages: [], versions: {}, startedAt: "" };
    await sink.write({ type: "start", globalStep: 0, run });
    const { size } = statSync(path);
    {
      using _watch = watchWrites((_, call) => {
        throw diskFull(call);
      });
      expect(() => sink.write({ type: "done", globalStep: 0, tokens: 0, elapsed: 0 })).toThrow("ENOSPC");
    }
    expect(statSync(path).size).toBe(size);
    expect(existsSync(`${path}.tmp`)).toBe(false);
  });
});

describe("the terminal", () => {
  const run = async (stream: Memory, interval?: number) => {
    using model = tinyModel();
    const out = temporaryFolder();
    await collect(tinyStages(), { model, outputDir: out, sinks: [terminal({ stream, interval })] });
    return stream.text;
  };

  it("gets plain lines where it is none, at most one per few seconds", async () => {
    const text = await run(new Memory());
    expect(text.match(/^cpt {2}step/gm)).toHaveLength(1);
    expect(text).toMatch(/stage 1\/3: compress \(autoregressive\), 6 steps of 4 x 16 tokens/);
    expect(text).toMatch(/cpt {2}step 1\/8 {2}loss \d.*left.*tokens\/s {2}lr 0\.01 {2}u_max 0\.001/);
    expect(text).toMatch(/saved .*pre-anneal/);
    expect(text).not.toContain("\u001b[");
    expect((await run(new Memory(), 0)).match(/^cpt {2}step/gm)).toHaveLength(8);
  });

  it("gets a bar where it is one", async () => {
    const stream = new Memory();
    stream.isTTY = true;
    const text = await run(stream);
    expect(text).toMatch(/━.*100%.*8\/8.*loss/);
  });
});

describe("a sink that throws", () => {
  it("is warned about once, and training and the other sinks go on", async () => {
    const seen: string[] = [];
    const broken: Sink = {
      name: "a broken sink",
      write: () => Promise.reject(new Error("no")),
      close: () => {
        throw new Error("no");
      },
    };
    const other: Sink = { name: "other", write: (event) => void seen.push(event.type) };
    using model = tinyModel();
    const events = await collect(tinyStages(), { model, sinks: [broken, other] });
    expect(events.filter(({ type }) => type === "warning")).toMatchObject([
      { message: "cannot write to a broken sink: no" },
    ]);
    expect(seen.filter((type) => type === "step")).toHaveLength(18);
  });
});
