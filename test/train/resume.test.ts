import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import * as torch from "../../lib/torch/index.js";
import type { AutoregressiveStageOptions } from "../../lib/train/index.js";
import {
  autoregressive,
  Curriculum,
  interruptSignal,
  muon,
  type Stage,
  sgd,
  type TrainEvent,
} from "../../lib/train/index.js";
import { bytesOf, Counting, collect, repeatable, stepsOf, temporaryFolder, tinyModel, tinyStages } from "./support.js";

/** The uninterrupted run that all others must equal. */
async function wholeRun(stages: Stage[] = tinyStages()) {
  const out = temporaryFolder();
  using model = tinyModel();
  const events = await collect(stages, { model, outputDir: out, seed: 3, sinks: [] });
  return { steps: stepsOf(events).map(repeatable), weights: bytesOf(model), optimizer: optimizerOf(out, "final") };
}

function optimizerOf(out: string, checkpoint: string): string {
  return readFileSync(join(out, "checkpoints", checkpoint, "optimizer.state")).toString("base64");
}

/** Runs until a step, stops as `how` says, and goes on with a new model of other weights. */
async function interrupted(at: number, how: "break" | "abort", stages: () => Stage[] = tinyStages) {
  const out = temporaryFolder();
  const controller = new AbortController();
  using first = tinyModel();
  const options = { outputDir: out, seed: 3, sinks: [], signal: controller.signal };
  const before = await collect(stages(), { ...options, model: first }, (event) => {
    if (event.type !== "step" || event.globalStep < at) return false;
    controller.abort();
    return how === "break";
  });
  using second = tinyModel({ seed: 99 });
  const after = await collect(stages(), { model: second, outputDir: out, seed: 3, sinks: [], resume: true });
  return { before, after, weights: bytesOf(second), optimizer: optimizerOf(out, "final"), out };
}

describe("the same seed", () => {
  it("gives the same numbers and weights bit for bit", async () => {
    expect(await wholeRun()).toEqual(await wholeRun());
  });

  it("and another one gives others", async () => {
    using a = tinyModel();
    using b = tinyModel();
    await collect(tinyStages(), { model: a, seed: 3 });
    await collect(tinyStages(), { model: b, seed: 4 });
    expect(bytesOf(a)).not.toBe(bytesOf(b));
  });
});

describe("train()", () => {
  it("trains to the end, or until it is aborted, and says how it ended", async () => {
    const out = temporaryFolder();
    const controller = new AbortController();
    controller.abort();
    using model = tinyModel();
    const curriculum = new Curriculum(tinyStages());
    const options = { model, seed: 3, sinks: [] };
    expect(await curriculum.train({ ...options, signal: controller.signal })).toMatchObject({ type: "aborted" });
    using other = tinyModel();
    const done = await curriculum.train({ ...options, model: other, outputDir: out });
    expect(done).toMatchObject({ type: "done", globalStep: 18 });
    expect(bytesOf(other)).toBe((await wholeRun()).weights);
  });
});

describe("train 2N equals train N, stop, resume N", () => {
  // 3: in the AR stage. 6: at its end. 9: in the warmup, while it holds. 14: between CPT and anneal. 16: while lr falls.
  for (const at of [3, 6, 9, 14, 16]) {
    it(`stopped by break at step ${at}`, async () => {
      const whole = await wholeRun();
      const { before, after, weights, optimizer } = await interrupted(at, "break");
      expect([...stepsOf(before), ...stepsOf(after)].map(repeatable)).toEqual(whole.steps);
      expect(weights).toBe(whole.weights);
      expect(optimizer).toBe(whole.optimizer);
    });
  }

  it("stopped by a signal in the middle of accumulation, which finishes the step first", async () => {
    const stages = () => tinyStages({ gradientAccumulationSteps: 4 });
    const whole = await wholeRun(stages());
    const { before, after, weights, optimizer } = await interrupted(9, "abort", stages);
    expect(before.at(-1)).toMatchObject({ type: "aborted", globalStep: 9 });
    expect([...stepsOf(before), ...stepsOf(after)].map(repeatable)).toEqual(whole.steps);
    expect(weights).toBe(whole.weights);
    expect(optimizer).toBe(whole.optimizer);
  });

  it("with the torch generator in the objective and an optimiser of its own in the second stage", async () => {
    const data = new Counting();
    const noisy = (name: string, more: Partial<AutoregressiveStageOptions>): Stage => {
      const plain = autoregressive({ name, data, steps: 5, globalBatchSize: 2, precision: "float32", ...more });
      return {
        ...plain,
        kind: "noisy",
        objective: (model, batch, context) => {
          const { loss, normalizer } = plain.objective(model, batch, context);
          const draws = ((context.state.draws as number | undefined) ?? 0) + 1;
          context.state.draws = draws;
          const scale = torch.rand([], { device: context.device }).add(0.5);
          return { loss: loss.mul(scale), normalizer, metrics: { draws } };
        },
      };
    };
    const stages = () => [
      noisy("one", { lr: 1e-2 }),
      noisy("two", { lr: 1e-1, optimizer: sgd({ momentum: 0.9 }), gradientAccumulationSteps: 2 }),
    ];
    const whole = await wholeRun(stages());
    for (const at of [5, 7]) {
      const { after, weights, optimizer } = await interrupted(at, "break", stages);
      expect(stepsOf(after).map(repeatable)).toEqual(whole.steps.slice(at));
      expect(weights).toBe(whole.weights);
      expect(optimizer).toBe(whole.optimizer);
    }
  });

  it("with Muon for the matrices and AdamW for the rest, in two stages", async () => {
    const data = new Counting();
    const common = { data, steps: 4, globalBatchSize: 2, precision: "float32", lr: 1e-2 } as const;
    const stages = () => [
      autoregressive({ ...common, name: "one", optimizer: muon({ nsDtype: "float32", adamw: { lrScale: 0.5 } }) }),
      autoregressive({ ...common, name: "two" }),
    ];
    const whole = await wholeRun(stages());
    expect(whole.steps[7].numbers.loss).toBeLessThan(whole.steps[0].numbers.loss as number);
    for (const at of [2, 6]) {
      const { after, weights, optimizer } = await interrupted(at, "break", stages);
      expect(stepsOf(after).map(repeatable)).toEqual(whole.steps.slice(at));
      expect(weights).toBe(whole.weights);
      expect(optimizer).toBe(whole.optimizer);
    }
  });

  it("stopped again and again, every three steps", async () => {
    const whole = await wholeRun();
    const out = temporaryFolder();
    const steps = [];
    for (;;) {
      using model = tinyModel({ seed: 50 + steps.length });
      const weights = steps.length === 0 ? tinyModel() : model; // the first run's own start counts
      const events: TrainEvent[] = [];
      for await (const event of new Curriculum(tinyStages()).run({
        model: weights,
        outputDir: out,
        seed: 3,
        resume: true,
        sinks: [],
      })) {
        events.push(event);
        if (stepsOf(events).length === 3) break;
      }
      steps.push(...stepsOf(events).map(repeatable));
      if (events.at(-1)?.type !== "done") continue;
      expect(steps).toEqual(whole.steps);
      expect(bytesOf(weights)).toBe(whole.weights);
      return;
    }
  });

  it("a finished run has nothing to do", async () => {
    const { out } = await interrupted(16, "break");
    using model = tinyModel();
    const events = await collect(tinyStages(), { model, outputDir: out, seed: 3, sinks: [], resume: true });
    expect(events.map((event) => event.type)).toEqual(["start", "done"]);
  });
});

describe("stopping", () => {
  it("an aborted signal saves where the run stands, keeps the named checkpoint and the last two others", async () => {
    const out = temporaryFolder();
    using model = tinyModel();
    const controller = new AbortController();
    const options = { model, outputDir: out, signal: controller.signal, checkpointEvery: { steps: 2 } };
    const events = await collect(tinyStages(), options, (event) => {
      if (event.type === "step" && event.globalStep === 13) controller.abort();
      return false;
    });
    expect(events.at(-1)).toMatchObject({ type: "aborted", step: 7, globalStep: 13 });
    expect(readdirSync(join(out, "checkpoints")).sort()).toEqual(["pre-anneal", "step-000012", "step-000013"]);
    expect(readdirSync(out)).not.toContain("lock");
  });

  it("an objective that throws loses no step that was done", async () => {
    const out = temporaryFolder();
    using model = tinyModel();
    const [first] = tinyStages();
    const failing: Stage = {
      ...first,
      objective: (...args) => {
        if (args[2].step === 4) throw new RangeError("no more");
        return first.objective(...args);
      },
    };
    await expect(collect([failing], { model, outputDir: out, sinks: [] })).rejects.toThrow("no more");
    expect(readdirSync(join(out, "checkpoints"))).toEqual(["step-000004"]);
  });

  it("Ctrl-C finishes the step and saves, and the run goes on from there bit for bit", async () => {
    const whole = await wholeRun();
    const out = temporaryFolder();
    const child = startChild([out]);
    await child.hasPrinted("step 8");
    child.process.kill("SIGINT");
    await child.ended;
    expect(child.process.exitCode, child.errors()).toBe(0);
    const [, stoppedAt] = /aborted (\d+)\n$/.exec(child.output()) ?? [];
    expect(child.errors()).toContain("stopping");
    using model = tinyModel({ seed: 5 });
    const events = await collect(tinyStages(), { model, outputDir: out, seed: 3, sinks: [], resume: true });
    expect(stepsOf(events).map(repeatable)).toEqual(whole.steps.slice(Number(stoppedAt)));
    expect(bytesOf(model)).toBe(whole.weights);
  });

  it("a second Ctrl-C ends the process at once", async () => {
    const child = startChild([temporaryFolder(), "hang"]);
    await child.hasPrinted("step 3");
    child.process.kill("SIGINT");
    await new Promise((done) => setTimeout(done, 1200)); // sooner it would be an echo of the first
    expect(child.process.exitCode).toBeNull();
    child.process.kill("SIGINT");
    await child.ended;
    expect(child.process.exitCode).toBe(130);
  });

  it("Ctrl-C aborts the signal, once and without handlers left behind", () => {
    const before = process.listenerCount("SIGINT");
    {
      using interrupt = interruptSignal({ message: "stopping" });
      expect(interrupt.signal.aborted).toBe(false);
      process.emit("SIGINT");
      expect(interrupt.signal.aborted).toBe(true);
    }
    expect(process.listenerCount("SIGINT")).toBe(before);
  });
});

function startChild(args: string[]) {
  const script = fileURLToPath(new URL("interrupted-child.ts", import.meta.url));
  const process_: ChildProcess = spawn(process.execPath, ["--import", import.meta.resolve("tsx"), script, ...args]);
  let output = "";
  let errors = "";
  process_.stdout?.on("data", (data) => {
    output += data;
  });
  process_.stderr?.on("data", (data) => {
    errors += data;
  });
  const ended = once(process_, "close");
  const hasPrinted = async (text: string) => {
    while (!output.includes(text)) {
      await Promise.race([ended, once(process_.stdout as NodeJS.ReadableStream, "data")]);
      if (process_.exitCode !== null) throw new Error(`the child ended: ${errors}`);
    }
  };
  return { process: process_, ended, hasPrinted, output: () => output, errors: () => errors };
}
