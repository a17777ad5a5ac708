import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { type TrainEvent, type WandbRun, wandb } from "../../../lib/train/index.js";
import { collect, stepsOf, temporaryFolder, tinyModel, tinyStages } from "../support.js";

/** A run of somebody's own: it keeps what it gets. */
class Kept implements WandbRun {
  readonly rows: { step: number; data: Record<string, unknown> }[] = [];
  readonly settings: Record<string, unknown>[] = [];
  exitCode: number | undefined;
  log(data: Record<string, unknown>, { step }: { step: number }) {
    this.rows.push({ step, data });
  }
  finish(exitCode?: number) {
    this.exitCode = exitCode;
  }
  config = { update: (values: Record<string, unknown>) => void this.settings.push(values) };
}

async function train(run: Parameters<typeof wandb>[0], options: { out?: string; fails?: boolean } = {}) {
  using model = tinyModel();
  const [first, second, third] = tinyStages();
  const sample = { every: 4, run: () => [{ prompt: "def f(", text: "x):", note: "4 forwards" }] };
  const objective = () => {
    throw new Error("the objective broke");
  };
  const last = options.fails ? { ...third, objective } : third;
  const stages = [first, { ...second, sample, evaluate: { every: 4, run: () => ({ bits_per_byte: 2.5 }) } }, last];
  return await collect(stages, { model, outputDir: options.out, seed: 3, sinks: [wandb(run)] });
}

const warnings = (events: readonly TrainEvent[]) =>
  events.flatMap((event) => (event.type === "warning" ? [event.message] : []));

describe("wandb with a run", () => {
  it("sends one row for each step, with all that belongs to it", async () => {
    const run = new Kept();
    const out = temporaryFolder();
    const events = await train(run, { out });
    expect(warnings(events)).toEqual([]);
    expect(run.rows.map(({ step }) => step)).toEqual(Array.from({ length: 18 }, (_, i) => i + 1));
    for (const { globalStep, name, metrics } of stepsOf(events)) {
      const { data } = run.rows[globalStep - 1];
      expect(data).toMatchObject({
        "train/loss": metrics.loss,
        "speed/tokens_per_second": metrics.tokens_per_second,
        "train/stage_name": name,
      });
    }
    expect(run.rows[9].data).toMatchObject({ "evaluation/bits_per_byte": 2.5, "samples/0": "def f(x):\n\n4 forwards" });
    expect(run.rows[8].data).not.toHaveProperty("samples/0");
    expect(run.rows[5].data).toMatchObject({ "checkpoint/name": "pre-anneal", "checkpoint/step": 6 });
    expect(run.rows[17].data).toMatchObject({ "checkpoint/name": "final", "run/state": "done" });
    expect(run.settings).toHaveLength(1);
    expect(run.settings[0]).toMatchObject({ seed: 3, device: "cpu", "stages/cpt/steps": 8 });
    expect(run.exitCode).toBe(0);
  });

  it("puts checkpoints and the end into the summary of a run that has one, and says how it failed", async () => {
    const summary: Record<string, unknown> = {};
    const run = Object.assign(new Kept(), {
      summary: { update: (values: Record<string, unknown>) => void Object.assign(summary, values) },
    });
    await expect(train(run, { out: temporaryFolder(), fails: true })).rejects.toThrow("the objective broke");
    expect(summary).toMatchObject({
      "checkpoint/step": 14,
      "run/state": "failed",
      "run/message": expect.stringMatching(/the objective broke/),
    });
    expect(run.rows.map(({ step }) => step)).toEqual(Array.from({ length: 14 }, (_, i) => i + 1));
    expect(run.exitCode).toBe(1);
  });

  it("whose network fails ends no training", async () => {
    const run = new Kept();
    run.log = () => {
      throw new Error("no route to host");
    };
    const events = await train(run);
    expect(warnings(events)).toEqual(["cannot write to Weights & Biases: no route to host"]);
    expect(stepsOf(events)).toHaveLength(18);
  });
});

describe("wandb with the SDK, in a thread of its own", () => {
  /** A module with the SDK's interface, whose functions are given. */
  const sdk = (body: string) => {
    const file = join(temporaryFolder(), "sdk.mjs");
    writeFileSync(file, `import { appendFileSync } from "node:fs";\nexport default { ${body} };\n`);
    return file;
  };

  it("hands everything over, and waits for it to be sent", async () => {
    const log = join(temporaryFolder(), "log.jsonl");
    const module = sdk(`async init(options) {
      const put = (value) => appendFileSync(${JSON.stringify(log)}, JSON.stringify(value) + "\\n");
      put({ options });
      console.log("View run at somewhere");
      return {
        log: (data, step) => put({ step, data }),
        finish: async (code) => { await new Promise((done) => setTimeout(done, 100)); put({ code }); },
        url: () => "https://example.test/run",
      };
    }`);
    const urls: string[] = [];
    await train({ project: "p", name: "n", sdk: module, onUrl: (url) => urls.push(url) });
    const [{ options }, ...rest] = readFileSync(log, "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(options).toMatchObject({ project: "p", name: "n", config: { seed: 3, "stages/cpt/steps": 8 } });
    expect(rest.slice(0, -1).map(({ step }) => step)).toEqual(Array.from({ length: 18 }, (_, i) => i + 1));
    expect(rest.at(-1)).toEqual({ code: 0 });
    expect(urls).toEqual(["https://example.test/run"]);
  });

  it("an error that the SDK throws into the event loop is a warning", async () => {
    const module = sdk(`async init() {
      setTimeout(() => { throw new Error("the sender broke"); }, 50);
      return { log() {}, async finish() {} };
    }`);
    const { sinks, events } = await slowly(wandb({ project: "p", sdk: module }));
    expect(warnings(events)).toEqual(["cannot write to Weights & Biases: the sender broke"]);
    expect(stepsOf(events).length).toBeGreaterThan(1); // it goes on
    await expect(sinks.close?.()).rejects.toThrow();
  });

  it("is found in CommonJS, too, and what is no SDK is said", async () => {
    const run = { parameters: 1, model: "m", device: "cpu", seed: 0, stages: [], versions: {}, startedAt: "" };
    const init = "async init() { return { log() {}, async finish() {}, url: () => 'found' }; }";
    const common = join(temporaryFolder(), "sdk.cjs");
    writeFileSync(common, `exports.__esModule = true; exports.default = { ${init} };\n`);
    const urls: string[] = [];
    const sink = wandb({ project: "p", sdk: common, onUrl: (url) => urls.push(url) });
    await sink.write({ type: "start", globalStep: 0, run });
    await sink.close?.();
    expect(urls).toEqual(["found"]);
    const other = wandb({ project: "p", sdk: sdk("start() {}") });
    await expect(other.write({ type: "start", globalStep: 0, run })).rejects.toThrow(/has no init\(\)/);
  });

  it("a key that is missing is a warning with the SDK's words", async () => {
    const module = sdk(`async init() { throw new Error("set the WANDB_API_KEY environment variable"); }`);
    const { events } = await slowly(wandb({ project: "p", sdk: module }));
    expect(warnings(events)).toEqual([expect.stringContaining("set the WANDB_API_KEY")]);
  });

  it("an SDK that never ends is not waited for longer than agreed", async () => {
    const module = sdk("async init() { return { log() {}, finish: () => new Promise(() => {}) }; }");
    const sink = wandb({ project: "p", sdk: module, finishSeconds: 0.3 });
    const run = { parameters: 1, model: "m", device: "cpu", seed: 0, stages: [], versions: {}, startedAt: "" };
    await sink.write({ type: "start", globalStep: 0, run });
    const begin = performance.now();
    await expect(sink.close?.()).rejects.toThrow("not everything was sent within 0.3 seconds");
    expect(performance.now() - begin).toBeLessThan(5000);
  });

  it("says how to install one that is missing", () => {
    expect(() => wandb({ project: "p", sdk: "@nobody/wandb-sdk-that-is-not-there" })).toThrow(
      expect.objectContaining({
        code: "TRAIN_OPTIONS",
        message: expect.stringContaining("npm install @nobody/wandb-sdk-that-is-not-there graphql"),
      }),
    );
  });

  /** Trains until a sink has warned: a thread takes its time to fail. */
  async function slowly(sinks: ReturnType<typeof wandb>) {
    using model = tinyModel();
    const [stage] = tinyStages();
    const long = { ...stage, end: { steps: 2000 } };
    let warned = 0;
    const wait = { every: 1, run: () => sleep(20, {}) };
    const events = await collect([{ ...long, evaluate: wait }], { model, sinks: [sinks] }, (event) => {
      if (event.type === "warning") warned++;
      return event.type === "step" && (warned > 0 || event.step >= 500);
    });
    return { sinks, events };
  }
});
