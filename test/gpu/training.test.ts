import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it, vi } from "vitest";
import { StableDiffCoder } from "../../lib/checkpoint/index.js";
import type { Dataset } from "../../lib/data/index.js";
import { Decoder, type PresetName, presetConfig } from "../../lib/model/index.js";
import { AdamW, gradNorm, type Optimizer, parameter, SGD } from "../../lib/nn/index.js";
import { ParallelModel, parallelSchema } from "../../lib/parallel/index.js";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import { native } from "../../lib/torch/native.js";
import {
  adamw,
  autoregressive,
  blockDiffusion,
  Curriculum,
  type RunOptions,
  type Stage,
  supervised,
  type TrainEvent,
} from "../../lib/train/index.js";
import { makeOptimizer } from "../../lib/train/optimizer.js";
import { planStages } from "../../lib/train/plan.js";
import { type StepPlace, Trainer } from "../../lib/train/trainer.js";
import { golden } from "../nn/golden.js";
import { Draw, device, Hog, memory, onGpu, record, relativeError, sized, synchronize } from "./support.js";

const LENGTH = 66;
const VOCABULARY = 512;
const config = presetConfig("tiny", { vocabSize: VOCABULARY, numLayers: 2 });

/** Counting in steps of 3, two documents a row, the first third of each a prompt. */
const data: Dataset = {
  seqLen: LENGTH,
  numSamples: 64,
  sample: (index) => ({
    tokens: Int32Array.from({ length: LENGTH }, (_, i) => 8 + ((index * 7 + i * 3) % (VOCABULARY - 8))),
    starts: [0, 23],
    lossMask: Uint8Array.from({ length: LENGTH }, (_, i) => (i % 23 < 7 ? 0 : 1)),
  }),
};

// With the usual eps AdamW's first step is the gradient's sign: where that is almost zero, rounding would decide it.
const optimizer = adamw({ eps: 1e-3 });
const common = { data, globalBatchSize: 8, steps: 20, lr: 1e-3, optimizer };
const STAGES: Record<string, (more?: Partial<typeof common> & { precision?: "float32" | "bfloat16" }) => Stage> = {
  autoregressive: (more) => autoregressive({ ...common, name: "ar", ...more }),
  "block diffusion": (more) => blockDiffusion({ ...common, name: "cpt", ...more }),
  "block diffusion, shifted": (more) => blockDiffusion({ ...common, name: "shifted", shift: true, ...more }),
  supervised: (more) => supervised({ ...common, name: "sft", ...more }),
};

const model = (on: string, seed = 1) => new Decoder(config, { device: on, generator: new torch.Generator({ seed }) });

const folder = mkdtempSync(join(tmpdir(), "diffcoder-gpu-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A trainer with its optimiser, as a run in a process of its own makes them. */
async function trainerOf(stage: Stage, decoder: Decoder) {
  const [planned] = planStages([stage], 0, decoder.config);
  const made = makeOptimizer(planned.optimizer, decoder, stage.name);
  const parallel = await ParallelModel.parallelize(decoder, parallelSchema.parse({}), undefined);
  const trainer = new Trainer(planned, parallel, made, {}, 0);
  return {
    step: async (place: StepPlace) => {
      const pending = await trainer.forwardBackward(place);
      return trainer.update(pending, [pending.report]);
    },
    dispose: () => {
      trainer.close();
      made.dispose();
    },
  };
}

async function run(
  stages: Stage[],
  options: RunOptions,
  look: (event: TrainEvent) => void = () => {},
): Promise<number[]> {
  const losses: number[] = [];
  for await (const event of new Curriculum(stages).run({ sinks: [], ...options })) {
    look(event);
    if (event.type === "step") losses.push(event.metrics.loss ?? Number.NaN);
  }
  return losses;
}

describe("one step against the CPU", () => {
  it.each(Object.keys(STAGES))("%s: loss, gradient norm and weights after AdamW in float32", async (name) => {
    const results = [];
    const decoders = [model(device), model("cpu")];
    for (const decoder of decoders) {
      const trainer = await trainerOf(STAGES[name]({ precision: "float32" }), decoder);
      results.push(await trainer.step({ step: 5, steps: 20, position: 0 }));
      trainer.dispose();
    }
    const [here, there] = results;
    expect(Math.abs(here.loss / there.loss - 1)).toBeLessThan(1e-5);
    expect(Math.abs(here.gradNorm / there.gradNorm - 1)).toBeLessThan(1e-4);
    const expected = decoders[1].parameters();
    const moved = decoders[0].parameters().map((weight, i) => {
      return torch.scope(() => weight.detach().cpu().sub(expected[i].detach()).abs().amax().item());
    });
    expect(Math.max(...moved) / here.lr).toBeLessThan(1e-3);
    const loss = Math.abs(here.loss / there.loss - 1).toExponential(1);
    record(
      `one step of ${name}, float32: relative error of the loss, largest of the weights in learning rates`,
      `${loss}, ${(Math.max(...moved) / here.lr).toExponential(1)}`,
    );
    for (const decoder of decoders) decoder.dispose();
  });

  it.each(Object.keys(STAGES))("%s: about the same in bfloat16", async (name) => {
    const results = [];
    for (const precision of ["bfloat16", "float32"] as const) {
      using decoder = model(device);
      const trainer = await trainerOf(STAGES[name]({ precision }), decoder);
      results.push(await trainer.step({ step: 5, steps: 20, position: 0 }));
      trainer.dispose();
    }
    const [rounded, exact] = results;
    expect(Math.abs(rounded.loss / exact.loss - 1)).toBeLessThan(0.01);
    expect(Math.abs(rounded.gradNorm / exact.gradNorm - 1)).toBeLessThan(0.05);
  });

  it("cutting the batch into micro-batches changes nothing", async () => {
    const results = [];
    for (const accumulation of [1, 4]) {
      using decoder = model(device);
      const stage = { ...STAGES["block diffusion"]({ precision: "float32" }), gradientAccumulationSteps: accumulation };
      const trainer = await trainerOf(stage, decoder);
      results.push(await trainer.step({ step: 5, steps: 20, position: 0 }));
      trainer.dispose();
    }
    expect(Math.abs(results[0].loss / results[1].loss - 1)).toBeLessThan(1e-5);
    expect(Math.abs(results[0].gradNorm / results[1].gradNorm - 1)).toBeLessThan(1e-4);
  });

  it("takes a batch in which nothing is masked", async () => {
    const prompts = {
      ...data,
      sample: (index: number) => ({ ...data.sample(index), lossMask: new Uint8Array(LENGTH) }),
    };
    using decoder = model(device);
    for (const precision of ["float32", "bfloat16"] as const) {
      const stage = supervised({ ...common, name: "empty", data: prompts, precision });
      const trainer = await trainerOf(stage, decoder);
      const step = await trainer.step({ step: 0, steps: 20, position: 0 });
      expect(step).toMatchObject({ skipped: "no targets", loss: 0 });
      trainer.dispose();
    }
  });
});

describe("optimisers against golden runs of PyTorch", () => {
  const NAMES = ["linear.weight", "linear.bias", "norm.weight"];

  function replay(file: string, dtype: torch.DTypeLike, make: (weights: [string, Tensor][]) => Optimizer): number {
    return torch.scope(() => {
      const { tensors, metadata } = golden(`optim/${file}.safetensors`);
      const place = (name: string) => tensors[name].to({ dtype, device, copy: true });
      const weights = NAMES.map((name): [string, Tensor] => [name, parameter(place(`0.${name}`))]);
      const made = make(weights);
      let worst = 0;
      for (const [step, lr] of (JSON.parse(metadata.rates) as number[]).entries()) {
        for (const [name, weight] of weights) weight.grad = place(`${step + 1}.grad.${name}`);
        made.step(lr);
        for (const [name, weight] of weights) {
          worst = Math.max(worst, relativeError(weight, tensors[`${step + 1}.${name}`].to(dtype), 1));
        }
        made.zeroGrad();
      }
      made.dispose();
      for (const [, weight] of weights) weight.dispose();
      return worst;
    });
  }

  const groups = (weights: [string, Tensor][]) => [
    { parameters: weights.filter(([, weight]) => weight.ndim > 1), weightDecay: 0.1 },
    { parameters: weights.filter(([, weight]) => weight.ndim <= 1), weightDecay: 0 },
  ];

  it.each([true, false])("AdamW over five steps (fused: %s), in float32 and with bfloat16 weights", (fused) => {
    expect(replay("adamw", "float32", (weights) => new AdamW(groups(weights), { fused }))).toBeLessThan(1e-6);
    expect(replay("adamw-bf16", "bfloat16", (weights) => new AdamW(groups(weights), { fused }))).toBeLessThan(2 ** -8);
  });

  it("goes on from a state that was saved on the other device", () => {
    torch.scope(() => {
      const draw = new Draw(6);
      const gradients = Array.from({ length: 6 }, () => draw.normal([9, 33]));
      const start = draw.normal([9, 33]);
      const advance = (weight: Tensor, made: Optimizer, from: number, to: number) => {
        for (const gradient of gradients.slice(from, to)) {
          weight.grad = gradient.to(weight.device);
          made.step(1e-2);
        }
      };
      const whole = parameter(start.clone());
      const wholeOptimizer = new AdamW([["w", whole]]);
      advance(whole, wholeOptimizer, 0, 6);
      const first = parameter(start.to({ device, copy: true }));
      const firstOptimizer = new AdamW([["w", first]]);
      advance(first, firstOptimizer, 0, 3);
      const second = parameter(first.detach().to({ device: "cpu", copy: true }));
      const secondOptimizer = new AdamW([["w", second]]);
      secondOptimizer.loadStateDict(firstOptimizer.stateDict());
      advance(second, secondOptimizer, 3, 6);
      expect(relativeError(second, whole)).toBeLessThan(1e-6);
      for (const made of [wholeOptimizer, firstOptimizer, secondOptimizer]) made.dispose();
    });
  });

  it("SGD with momentum moves as on the CPU", () => {
    torch.scope(() => {
      const draw = new Draw(7);
      const start = draw.normal([40, 3]);
      const weights = [device, "cpu"].map((on) => parameter(start.to({ device: on, copy: true })));
      for (const weight of weights) {
        const made = new SGD([["w", weight]], { momentum: 0.9, nesterov: true, weightDecay: 0.1 });
        const gradients = new Draw(8);
        for (let step = 0; step < 4; step++) {
          weight.grad = gradients.normal([40, 3]).to(weight.device);
          made.step(0.1);
        }
        made.dispose();
      }
      expect(relativeError(weights[0], weights[1])).toBeLessThan(1e-6);
    });
  });

  it("the gradient norm is the CPU's, and zero on the device without gradients", () => {
    torch.scope(() => {
      const weights = [[5], [300, 70], [1, 1]].map((shape) => parameter(torch.zeros(shape, { device })));
      expect(gradNorm(weights).device).toBe(weights[0].device);
      const draw = new Draw(9);
      const gradients = weights.map((weight) => draw.normal(weight.shape));
      for (const [i, weight] of weights.entries()) weight.grad = gradients[i].to(device);
      const expected = torch
        .cat(gradients.map((gradient) => gradient.flatten()))
        .norm()
        .item();
      expect(Math.abs(gradNorm(weights).item() / expected - 1)).toBeLessThan(1e-6);
    });
  });
});

describe("twenty steps", () => {
  it.each(["float32", "bfloat16"] as const)(
    "%s: the loss falls; tensors and memory stay as they are",
    async (precision) => {
      using decoder = model(device);
      const live: number[] = [];
      const bytes: number[] = [];
      const stage = autoregressive({ ...common, name: "ar", steps: 20, lr: 3e-3, precision, optimizer: adamw() });
      const losses = await run([stage], { model: decoder }, (event) => {
        if (event.type !== "step") return;
        live.push(event.metrics.live_tensors ?? Number.NaN);
        bytes.push(memory.allocated());
      });
      expect(losses).toHaveLength(20);
      expect(losses.every(Number.isFinite)).toBe(true);
      expect(losses[19]).toBeLessThan(0.8 * losses[0]);
      expect(new Set(live.slice(3)).size).toBe(1);
      expect(Math.max(...bytes.slice(3))).toBe(Math.min(...bytes.slice(3)));
      record(`20 AR steps, ${precision}: loss from, to`, `${losses[0].toFixed(3)}, ${losses[19].toFixed(3)}`);
    },
  );

  it("block diffusion with warmup: finite, and falling where the weights are Eq. 10's", async () => {
    using decoder = model(device);
    const stage = blockDiffusion({
      ...common,
      name: "cpt",
      steps: 40,
      lr: 3e-3,
      warmup: { steps: 80, initial: 0.5 },
      optimizer: adamw(),
    });
    const losses = await run([stage], { model: decoder });
    const mean = (from: number, to: number) => losses.slice(from, to).reduce((sum, x) => sum + x, 0) / (to - from);
    expect(losses.every(Number.isFinite)).toBe(true);
    expect(mean(35, 40)).toBeLessThan(mean(0, 5));
  });
});

describe("what the host waits for in a step", () => {
  it.each(["float32", "bfloat16"] as const)("%s: for the logged numbers, and for nothing else", async (precision) => {
    using decoder = model(device);
    const trainer = await trainerOf(STAGES["block diffusion"]({ precision }), decoder);
    const place = { step: 5, steps: 20, position: 0 };
    // The same step again and again: by then all memory is there, and libraries have their handles and plans.
    for (let i = 0; i < 3; i++) await trainer.step(place);
    const hog = new Hog();
    const spies = (["item", "readInto", "cudaSynchronize"] as const).map((name) => vi.spyOn(native, name));
    const readAsync = native.readAsync;
    let asked = Number.NaN;
    let resumed = Number.NaN;
    const reading = vi.spyOn(native, "readAsync").mockImplementation(async (tensor, target) => {
      asked = performance.now() - begun;
      const numbers = await readAsync(tensor, target);
      hog.work(1000); // for the second half: clipping and the update
      resumed = performance.now();
      return numbers;
    });
    synchronize();
    hog.work(1000);
    for (const spy of spies) spy.mockClear();
    const begun = performance.now();
    await trainer.step(place);
    const updated = performance.now() - resumed;
    expect(reading).toHaveBeenCalledTimes(1);
    for (const spy of spies) expect(spy, spy.getMockName()).not.toHaveBeenCalled();
    vi.restoreAllMocks();
    // The device was busy for a second before each half; who waits for it cannot be through in half of one.
    expect(asked).toBeLessThan(500);
    expect(updated).toBeLessThan(500);
    record(
      `host time of a step's first half (forward, backward, norm), second half (clip, update), ${precision}`,
      `${asked.toFixed(1)} ms, ${updated.toFixed(1)} ms, the device busy with other work`,
    );
    synchronize();
    hog.dispose();
    trainer.dispose();
  });
});

describe("checkpoints", () => {
  it("are the same bytes on the device, in the file and on the CPU", async () => {
    using decoder = model(device);
    using coder = new StableDiffCoder(decoder);
    await coder.savePretrained(join(folder, "saved"));
    using there = await StableDiffCoder.fromPretrained(join(folder, "saved"));
    using here = await StableDiffCoder.fromPretrained(join(folder, "saved"), { device });
    for (const [i, weight] of decoder.parameters().entries()) {
      expect(there.model.parameters()[i].equal(weight.cpu())).toBe(true);
      expect(here.model.parameters()[i].equal(weight)).toBe(true);
    }
    await here.savePretrained(join(folder, "bf16"), { dtype: "bfloat16" });
    using rounded = await StableDiffCoder.fromPretrained(join(folder, "bf16"), { device });
    expect(rounded.model.headWeight.dtype).toBe("bfloat16");
    expect(rounded.model.headWeight.equal(decoder.headWeight.bfloat16())).toBe(true);
  });

  it("train 12 steps equals train 6, stop, resume 6, also when the second half runs on the CPU", async () => {
    const stage = () => [blockDiffusion({ ...common, name: "cpt", steps: 12, precision: "float32" })];
    using whole = model(device);
    const straight = await run(stage(), { model: whole });
    for (const [i, second] of [device, "cpu"].entries()) {
      const out = join(folder, `resumed ${i}`);
      const options = { outputDir: out, checkpointEvery: { steps: 6 } };
      using firstHalf = model(device);
      const curriculum = new Curriculum(stage());
      for await (const event of curriculum.run({ ...options, model: firstHalf, sinks: [] })) {
        if (event.type === "step" && event.globalStep === 6) break; // saves first
      }
      using secondHalf = model(second, 2);
      const rest = await run(stage(), { ...options, model: secondHalf, resume: true });
      expect(rest).toHaveLength(6);
      for (const [k, loss] of rest.entries()) expect(Math.abs(loss / straight[6 + k] - 1)).toBeLessThan(1e-3);
      for (const [k, weight] of secondHalf.parameters().entries()) {
        expect(relativeError(weight, whole.parameters()[k])).toBeLessThan(1e-3);
      }
    }
  });
});

describe("training speed", () => {
  const total = () => (onGpu ? torch.cuda.memoryStats().total : Number.POSITIVE_INFINITY);
  interface Case {
    preset: PresetName;
    length: number;
    globalBatchSize: number;
    /** Bytes of device memory. */
    needs: number;
  }
  const presets = sized<Case[]>(
    [
      { preset: "125m", length: 1024, globalBatchSize: 16, needs: 20e9 },
      { preset: "1b", length: 2048, globalBatchSize: 4, needs: 75e9 },
    ],
    [{ preset: "tiny", length: 64, globalBatchSize: 2, needs: 0 }],
  );

  it.each(presets)(
    "$preset: tokens a second of AR and of block diffusion, bf16",
    async ({ preset, length, globalBatchSize, needs }) => {
      if (total() < needs) {
        record(`training ${preset}`, `left out: the device has less than ${needs / 1e9} GB`);
        return;
      }
      const shape = presetConfig(preset);
      const random: Dataset = {
        seqLen: length,
        numSamples: 64,
        sample: (index) => {
          const philox = new torch.Philox(1, index);
          return { tokens: Int32Array.from({ length }, () => 8 + philox.below(shape.vocabSize - 8)) };
        },
      };
      using decoder = new Decoder(shape, { device, init: false });
      for (const weight of decoder.parameters()) {
        torch.noGrad(() => (weight.ndim > 1 ? torch.ops.aten.normal_(weight, 0, 0.02) : weight.fill_(1)));
      }
      const options = { data: random, globalBatchSize, steps: sized(12, 4), lr: 1e-4, precision: "bfloat16" as const };
      for (const stage of [autoregressive({ ...options, name: "ar" }), blockDiffusion({ ...options, name: "cpt" })]) {
        memory.reset();
        const steps: Record<string, number>[] = [];
        await run([stage], { model: decoder }, (event) => event.type === "step" && steps.push({ ...event.metrics }));
        const warm = steps.slice(2).sort((a, b) => a.step_seconds - b.step_seconds);
        const { step_seconds, tokens_per_second, mfu, loss } = warm[Math.floor(warm.length / 2)];
        expect(Number.isFinite(loss)).toBe(true);
        const share = mfu === undefined ? "unknown" : `${(100 * mfu).toFixed(1)} %`;
        record(
          `training ${preset}, ${stage.kind}, ${globalBatchSize} x ${length}, bf16`,
          `${(1000 * step_seconds).toFixed(1)} ms a step, ${Math.round(tokens_per_second)} tokens/s, MFU ${share}, ${(memory.peak() / 1e9).toFixed(1)} GB`,
        );
      }
    },
  );
});
