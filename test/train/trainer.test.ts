import { afterAll, describe, expect, it } from "vitest";
import type { Batch } from "../../lib/data/index.js";
import type { Decoder } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import {
  autoregressive,
  bidirectional,
  blockDiffusion,
  causalDiffusion,
  flopsPerToken,
  type Objective,
  type ObjectiveContext,
  resolvePrecision,
  type Stage,
  sgd,
  stage,
} from "../../lib/train/index.js";
import { heldTensors } from "../torch/held-tensors.js";
import {
  bytesOf,
  collect,
  data,
  numbersOf,
  repeatable,
  stepsOf,
  temporaryFolder,
  tinyModel,
  tinyStages,
} from "./support.js";

/** Weights after a run, as numbers. */
async function weightsAfter(
  stages: Stage[],
  seed = 3,
): Promise<{ weights: number[]; losses: number[]; norms: number[] }> {
  using model = tinyModel();
  const steps = stepsOf(await collect(stages, { model, seed }));
  return {
    weights: numbersOf(model),
    losses: steps.map((s) => s.metrics.loss),
    norms: steps.map((s) => s.metrics.grad_norm),
  };
}

const largest = (a: readonly number[], b: readonly number[]) =>
  Math.max(...a.map((value, i) => Math.abs(value - b[i])));

describe("accumulation", () => {
  const stages = (accumulation: number, normalizer: "tokens" | "masked"): Stage[] => [
    // Plain descent: Adam divides by the gradient's size and would blow rounding errors up.
    blockDiffusion({
      name: "d",
      data,
      steps: 6,
      globalBatchSize: 8,
      gradientAccumulationSteps: accumulation,
      normalizer,
      lr: 0.05,
      optimizer: sgd(),
      precision: "float32",
    }),
  ];

  for (const normalizer of ["tokens", "masked"] as const) {
    it(`1 x batch 8 equals 4 x batch 2 to 1e-6, divided by ${normalizer}`, async () => {
      const whole = await weightsAfter(stages(1, normalizer));
      for (const accumulation of [2, 4, 8]) {
        const cut = await weightsAfter(stages(accumulation, normalizer));
        expect(largest(whole.losses, cut.losses)).toBeLessThan(1e-6 * 10);
        expect(largest(whole.norms, cut.norms)).toBeLessThan(1e-6 * 10);
        expect(largest(whole.weights, cut.weights)).toBeLessThan(1e-6);
      }
    });
  }

  it.each(Object.entries({ bidirectional, causalDiffusion }))("%s: the same", async (_, make) => {
    const run = (gradientAccumulationSteps: number) => {
      const common = { data, steps: 4, globalBatchSize: 8, lr: 0.05, optimizer: sgd(), precision: "float32" } as const;
      return weightsAfter([make({ name: "d", ...common, gradientAccumulationSteps, normalizer: "masked" })]);
    };
    const [whole, cut] = [await run(1), await run(4)];
    expect(largest(whole.losses, cut.losses)).toBeLessThan(1e-6 * 10);
    expect(largest(whole.weights, cut.weights)).toBeLessThan(1e-6);
  });

  it("divides by the sum of the normalisers, not by each micro-batch's own", async () => {
    // Micro-batches of 1 and 3 counted targets: the mean of means would be another number.
    const counted: Objective = (model, batch) => {
      const rows = batch.indices[0] % 2 === 0 ? 1 : 3;
      return { loss: model.headWeight.narrow(0, 0, rows).sum(), normalizer: rows };
    };
    using model = tinyModel();
    const headOf = () => torch.scope(() => Array.from(model.headWeight.detach().toTypedArray(), Number));
    const before = headOf();
    const one = stage({
      name: "s",
      data,
      objective: counted,
      steps: 1,
      globalBatchSize: 2,
      gradientAccumulationSteps: 2,
      maxGradNorm: null,
      lr: 1,
      optimizer: sgd(),
    });
    const [step] = stepsOf(await collect([one], { model }));
    const after = headOf();
    const width = model.config.hiddenSize;
    const change = (row: number) => before[row * width] - after[row * width];
    expect(change(0)).toBeCloseTo(2 / 4, 6); // both micro-batches, over 1 + 3
    expect(change(1)).toBeCloseTo(1 / 4, 6);
    expect(change(3)).toBe(0);
    expect(step.metrics.grad_norm).toBeCloseTo(Math.sqrt(width * (0.5 ** 2 + 2 * 0.25 ** 2)), 5);
  });
});

describe("clipping", () => {
  it("scales the step, and the norm that is logged is the one before", async () => {
    const run = async (clip: number | null) => {
      using model = tinyModel();
      using before = torch.scope(() => model.headWeight.detach().clone());
      const one = autoregressive({
        name: "a",
        data,
        steps: 1,
        globalBatchSize: 4,
        lr: 1,
        maxGradNorm: clip,
        optimizer: sgd(),
        precision: "float32",
      });
      const [step] = stepsOf(await collect([one], { model }));
      const moved = torch.scope(() => torch.noGrad(() => model.headWeight.sub(before).norm().item()));
      return { norm: step.metrics.grad_norm, moved };
    };
    const free = await run(null);
    const clipped = await run(0.1);
    expect(clipped.norm).toBe(free.norm);
    expect(free.norm).toBeGreaterThan(0.2);
    expect(clipped.moved).toBeCloseTo((free.moved * 0.1) / free.norm, 5);
  });
});

describe("an objective of one's own", () => {
  const context: ObjectiveContext[] = [];
  const shapes: Batch[] = [];
  const objective = function squeeze(model: Decoder, batch: Batch, step: ObjectiveContext) {
    context.push({ ...step, state: { ...step.state } });
    shapes.push(batch);
    step.state.calls = ((step.state.calls as number | undefined) ?? 0) + 1;
    const loss = model.headWeight.square().sum();
    return { loss, normalizer: 10, metrics: { calls: step.state.calls as number, norm: loss.detach().sqrt() } };
  };

  it("gets batches by global position and a context, and its metrics are logged", async () => {
    using model = tinyModel();
    const own = stage({
      name: "own",
      data,
      objective,
      steps: 3,
      globalBatchSize: 4,
      gradientAccumulationSteps: 2,
      lr: 0.1,
    });
    const events = await collect([...tinyStages().slice(0, 1), own], { model, seed: 9 });
    const steps = stepsOf(events).filter(({ name }) => name === "own");
    expect(own.kind).toBe("squeeze");
    expect(context).toHaveLength(6);
    expect(context[0]).toMatchObject({ seed: 9, stage: 1, step: 0, steps: 3, device: "cpu", state: {} });
    expect(context[0].gradNorm).toBeGreaterThan(0);
    // The first stage read 24 rows of the same data: this one goes on there.
    expect(shapes.map(({ indices }) => indices)).toEqual([
      [24, 25],
      [26, 27],
      [28, 29],
      [30, 31],
      [32, 33],
      [34, 35],
    ]);
    expect(steps.map(({ metrics }) => metrics.calls)).toEqual([1.5, 3.5, 5.5]); // the mean of two micro-batches
    expect(steps[2].metrics.loss).toBeLessThan(steps[0].metrics.loss);
    expect(steps[0].metrics.norm ** 2 / 10).toBeCloseTo(steps[0].metrics.loss, 5);
  });

  it.each<[string, Objective, RegExp]>([
    ["no tensor", () => ({ loss: 3 as never, normalizer: 1 }), /loss is 3, expected a tensor/],
    [
      "a loss of many numbers",
      (model) => ({ loss: model.headWeight.sum([0]), normalizer: 1 }),
      /loss has shape \[16\]/,
    ],
    ["no count", (model) => ({ loss: model.headWeight.sum(), normalizer: Number.NaN }), /normalizer is NaN/],
    ["a constant", () => ({ loss: torch.ones([]), normalizer: 1 }), /does not depend on the model/],
  ])("is told when it gives back %s", async (_, wrong, message) => {
    using model = tinyModel();
    const own = stage({ name: "own", data, objective: wrong, steps: 1, lr: 0.1 });
    await expect(collect([own], { model })).rejects.toThrow(message);
  });
});

describe("numbers that are none", () => {
  /** An AR stage that breaks in some steps. */
  const breaking = (isBad: (step: number) => boolean, what: "loss" | "gradient" = "loss"): Stage => {
    const plain = autoregressive({ name: "a", data, steps: 8, globalBatchSize: 2, lr: 1e-2, precision: "float32" });
    return {
      ...plain,
      objective: (model, batch, context) => {
        const result = plain.objective(model, batch, context);
        if (!isBad(context.step)) return result;
        // The gradient of sqrt at 0 is infinite, the loss is not.
        const bad = what === "loss" ? torch.tensor(Number.NaN) : model.headWeight.mul(0).sum().sqrt();
        return { ...result, loss: result.loss.add(bad) };
      },
    };
  };

  for (const what of ["loss", "gradient"] as const) {
    it(`a ${what} that is not finite skips the step and leaves weights and optimiser alone`, async () => {
      using model = tinyModel();
      let before = "";
      const stages = [breaking((step) => step === 3, what)];
      const seen: string[] = [];
      const events = await collect(stages, { model }, (event) => {
        if (event.type === "step" && event.step === 3) before = bytesOf(model);
        if (event.type === "step" && event.step === 4) seen.push(bytesOf(model));
        return false;
      });
      expect(seen).toEqual([before]);
      const steps = stepsOf(events);
      expect(steps.map(({ skipped }) => skipped)).toEqual(
        Array.from({ length: 8 }, (_, step) => (step === 3 ? "not finite" : undefined)),
      );
      expect(steps.every(({ metrics }) => Object.values(metrics).every(Number.isFinite))).toBe(true);
      expect(events).toContainEqual(expect.objectContaining({ type: "warning", code: "STEP_SKIPPED" }));
      expect(bytesOf(model)).not.toBe(before);
    });
  }

  it("too many in a row end the run with the samples, and the last good weights are saved", async () => {
    const out = temporaryFolder();
    using model = tinyModel();
    let good = "";
    const run = collect(
      [breaking((step) => step >= 2)],
      { model, outputDir: out, maxSkipped: 2, sinks: [] },
      (event) => {
        if (event.type === "step" && event.step === 2) good = bytesOf(model);
        return false;
      },
    );
    await expect(run).rejects.toMatchObject({
      code: "TRAIN_NOT_FINITE",
      message: expect.stringMatching(
        /'a': .*3 steps in a row, up to step 5; .*loss NaN.*positions 8 to 9.*samples \d+, \d+/,
      ),
    });
    expect(bytesOf(model)).toBe(good);
    using resumed = tinyModel({ seed: 7 });
    await collect([breaking(() => false)], { model: resumed, outputDir: out, resume: true, sinks: [] }, () => true);
    expect(bytesOf(resumed)).toBe(good);
  });

  it("a batch without a target is no step, and no error", async () => {
    using model = tinyModel();
    const before = bytesOf(model);
    const masked = blockDiffusion({
      name: "d",
      data,
      steps: 1,
      globalBatchSize: 2,
      normalizer: "masked",
      warmup: { steps: 1000, initial: 1e-9 },
      lr: 1e-2,
    });
    const [step] = stepsOf(await collect([masked], { model }));
    expect(step).toMatchObject({ skipped: "no targets" });
    expect(bytesOf(model)).toBe(before);
  });
});

describe("memory", () => {
  it("holds as many tensors after 50 steps of each kind as after two", async () => {
    using model = tinyModel();
    const common = { data, steps: 50, globalBatchSize: 4, gradientAccumulationSteps: 2 };
    const stages = [
      autoregressive({ ...common, name: "a", lr: 1e-3 }),
      blockDiffusion({ ...common, name: "d", warmup: { steps: 10 } }),
    ];
    const live: number[] = [];
    await collect(stages, { model }, (event) => {
      if (event.type === "step") live.push(heldTensors());
      return false;
    });
    expect(new Set(live.slice(2)).size).toBe(1);
    const before = heldTensors();
    expect(before).toBeLessThan(live[2]); // the optimiser's state is gone
    await collect(stages, { model }, (event) => event.type === "step");
    expect(heldTensors()).toBe(before);
  });
});

describe("precision", () => {
  it("bfloat16 is autocast: weights stay float32 and learn about the same", async () => {
    const run = async (precision: "float32" | "bfloat16") => {
      using model = tinyModel();
      const [a] = tinyStages();
      const steps = stepsOf(await collect([{ ...a, precision }], { model, seed: 3 }));
      expect(model.headWeight.dtype).toBe("float32");
      return steps.map(({ metrics }) => metrics.loss);
    };
    const [full, half] = [await run("float32"), await run("bfloat16")];
    expect(half).not.toEqual(full);
    expect(largest(full, half)).toBeLessThan(0.05);
  });

  it("auto is one of the two", () => {
    expect(["float32", "bfloat16"]).toContain(resolvePrecision("auto", "cpu"));
    expect(resolvePrecision("float32", "cpu")).toBe("float32");
  });
});

describe("ends", () => {
  it.each([
    [{ tokens: 1000 }, Math.ceil(1000 / 64)],
    [{ epochs: 2 }, Math.ceil(74 / 4)],
    [{ steps: 5 }, 5],
  ])("%o is %i steps", async (end, expected) => {
    using model = tinyModel();
    const one = autoregressive({ name: "a", data, globalBatchSize: 4, lr: 1e-3, ...end } as never);
    expect(stepsOf(await collect([one], { model }))).toHaveLength(expected);
  });

  it("minutes end by the clock, with the learning rate at its end", async () => {
    using model = tinyModel();
    const one = autoregressive({
      name: "a",
      data,
      globalBatchSize: 4,
      minutes: 1 / 60,
      lr: { type: "decay-to", from: 1, min: 0 },
    });
    const start = performance.now();
    const steps = stepsOf(await collect([one], { model }));
    const seconds = (performance.now() - start) / 1000;
    expect(seconds).toBeGreaterThan(0.7);
    expect(seconds).toBeLessThan(2.5);
    expect(steps[0].metrics.lr).toBe(1);
    expect(steps.at(-1)?.metrics.lr).toBeLessThan(0.3);
  });
});

describe("hooks", () => {
  it("are called every so many steps and at the end, and change no number of the run", async () => {
    const run = async (withHooks: boolean) => {
      using model = tinyModel();
      const [first] = tinyStages();
      const calls: number[] = [];
      const evaluate = {
        every: 4,
        run: (_: Decoder, { step }: { step: number }) => {
          calls.push(step);
          torch.rand([10]).dispose(); // takes numbers out of the default generator
          return { score: step / 2 };
        },
      };
      const sample = { every: 3, run: async () => [{ prompt: "a", text: "b" }] };
      const events = await collect([withHooks ? { ...first, evaluate, sample } : first], { model });
      return { events, calls, steps: stepsOf(events).map(repeatable) };
    };
    const hooked = await run(true);
    expect(hooked.calls).toEqual([4, 6]);
    expect(hooked.events.filter(({ type }) => type === "sample")).toHaveLength(2);
    expect(hooked.events).toContainEqual(
      expect.objectContaining({ type: "evaluation", step: 4, metrics: { score: 2 } }),
    );
    expect(hooked.steps).toEqual((await run(false)).steps);
  });
});

describe("model FLOPs", () => {
  it("are torchtitan's for an 8B Llama at 8192: 57.9 GFLOP a token", () => {
    const config = {
      vocabSize: 128_256,
      hiddenSize: 4096,
      numLayers: 32,
      numHeads: 32,
      headDim: 128,
      tieWordEmbeddings: false,
    };
    const flops = flopsPerToken(config as never, 8.03e9, 8192, 1);
    expect(flops / 1e9).toBeCloseTo(57.9, 0);
    const body = 8.03e9 - 2 * 128_256 * 4096;
    expect(flopsPerToken(config as never, 8.03e9, 8192, 2) - flops).toBeCloseTo(
      6 * body + 12 * 32 * 32 * 128 * 8192,
      -6,
    );
  });
});

afterAll(() => expect(torch.memory().tensors).toBe(0));
