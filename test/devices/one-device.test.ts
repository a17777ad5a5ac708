import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { loadWeights, saveCheckpoint } from "../../lib/checkpoint/index.js";
import type { Dataset } from "../../lib/data/index.js";
import { arBitsPerByte, diffusionBound } from "../../lib/diffusion/index.js";
import { type BlockGenerationOptions, generateAutoregressive, generateBlocks } from "../../lib/engine/index.js";
import { Decoder, presetConfig } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import {
  autoregressive,
  blockDiffusion,
  Curriculum,
  type RunOptions,
  type Stage,
  type StepEvent,
  stage,
  supervised,
} from "../../lib/train/index.js";
import { FakeCuda } from "./fake-cuda.js";

torch.setNumThreads(1);

const LENGTH = 24;
const config = presetConfig("tiny", {
  vocabSize: 64,
  hiddenSize: 32,
  intermediateSize: 48,
  numHeads: 4,
  numLayers: 2,
  attentionBias: "qkvo",
});

/** Two documents and a prompt in every row. */
const data: Dataset = {
  seqLen: LENGTH,
  numSamples: 16,
  sample: (index) => ({
    tokens: Int32Array.from({ length: LENGTH }, (_, i) => 8 + ((index * 5 + i * 3) % 50)),
    starts: [0, 7],
    lossMask: Uint8Array.from({ length: LENGTH }, (_, i) => (i % 7 < 3 ? 0 : 1)),
  }),
};

/** Nothing to learn: every token is a prompt's. */
const prompts: Dataset = {
  ...data,
  sample: (index) => ({ ...data.sample(index), lossMask: new Uint8Array(LENGTH) }),
};

const folder = mkdtempSync(join(tmpdir(), "diffcoder-devices-"));
let cuda: FakeCuda;
let model: Decoder;
beforeAll(() => {
  cuda = new FakeCuda();
  model = new Decoder(config, { device: "cuda", generator: new torch.Generator({ seed: 1 }) });
});
afterAll(() => {
  model.dispose();
  cuda[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});
beforeEach(() => void cuda.take());

async function train(stages: Stage[], options: Partial<RunOptions> = {}): Promise<StepEvent[]> {
  const steps: StepEvent[] = [];
  for await (const event of new Curriculum(stages).run({ model, sinks: [], ...options })) {
    if (event.type === "step") steps.push(event);
  }
  return steps;
}

const common = { data, steps: 3, globalBatchSize: 4, gradientAccumulationSteps: 2, lr: 1e-3 };

describe("the whole of training on one device", () => {
  const stages: Record<string, () => Stage> = {
    "autoregressive, isolated documents": () => autoregressive({ ...common, name: "a" }),
    "autoregressive, visible documents": () => autoregressive({ ...common, name: "b", crossDocumentAttention: true }),
    "block diffusion": () => blockDiffusion({ ...common, name: "c", warmup: { steps: 2 } }),
    "block diffusion, shifted": () => blockDiffusion({ ...common, name: "d", shift: true }),
    "block diffusion in float32": () => blockDiffusion({ ...common, name: "e", precision: "float32" }),
    "supervised, plain SGD": () => supervised({ ...common, name: "f", optimizer: { type: "sgd" } as never }),
  };

  it.each(Object.keys(stages))("%s: no mixed devices, and one wait a step, for the numbers", async (name) => {
    const steps = await train([stages[name]()]);
    expect(steps).toHaveLength(3);
    for (const { metrics } of steps) expect(Number.isFinite(metrics.loss)).toBe(true);
    const { waits, operators } = cuda.take();
    expect(waits).toEqual({ read: 3 });
    expect(operators).toBeGreaterThan(100);
  });

  it("takes a batch in which nothing is masked, and an objective whose metric is on the CPU", async () => {
    const [step] = await train([supervised({ ...common, data: prompts, steps: 1, name: "g" })]);
    expect(step.skipped).toBe("no targets");
    const own = stage({
      ...common,
      steps: 1,
      name: "own",
      objective: (decoder) => ({
        loss: decoder.headWeight.sum(),
        normalizer: 1,
        metrics: { counted: torch.tensor(3) },
      }),
    });
    const [{ metrics }] = await train([own]);
    expect(metrics.counted).toBe(3);
    const constant = stage({
      ...common,
      steps: 1,
      name: "constant",
      objective: (decoder) => ({ loss: torch.zeros([], { device: decoder.device }), normalizer: 0 }),
    });
    expect((await train([constant]))[0].skipped).toBe("no targets");
  });

  it("goes on from a checkpoint, and moves a model from the CPU", async () => {
    const out = join(folder, "run");
    const run = (steps: number) => [blockDiffusion({ ...common, name: "cpt", steps })];
    using moved = new Decoder(config, { generator: new torch.Generator({ seed: 2 }) });
    await train(run(2), { model: moved, outputDir: out, device: "cuda" });
    expect(moved.device).toBe("cuda:0");
    using again = new Decoder(config, { device: "cuda:0", init: false });
    await saveCheckpoint(moved, join(folder, "saved"));
    await loadWeights(again, join(folder, "saved"));
    for (const [i, weight] of again.parameters().entries()) {
      expect(weight.device).toBe("cuda:0");
      expect(weight.detach().toTypedArray()).toEqual(moved.parameters()[i].detach().toTypedArray());
    }
  });
});

describe("sampling and measuring on one device", () => {
  const prompt = [9, 10, 11, 12, 13, 14];

  // Besides the tokens of a pass, all logits of a row with a temperature are read, and entropies.
  const modes: [readsPerPass: number, BlockGenerationOptions][] = [
    [1, { maxTokens: 10 }],
    [1, { maxTokens: 10, maxNumBatchedTokens: 4 }],
    [1, { maxTokens: 10, shift: true }],
    [1, { maxTokens: 10, commit: { rule: "threshold", value: 0.01 } }],
    [2, { maxTokens: 10, commit: { rule: "entropy", bound: 0.4 } }],
    [2, { maxTokens: 10, temperature: 0.8, topK: 5, topP: 0.9 }],
  ];

  it.each(modes)("by blocks, %i reads per pass: %o", async (readsPerPass, options) => {
    let passes = 0;
    for await (const event of generateBlocks(model, prompt, { stopTokenIds: [], ...options })) {
      if (event.type === "denoise") passes++;
    }
    expect(cuda.take().waits).toEqual({ readInto: readsPerPass * passes });
  });

  it("token by token", async () => {
    let tokens = 0;
    for await (const event of generateAutoregressive(model, prompt, { maxTokens: 5, stopTokenIds: [] })) {
      if (event.type === "text") tokens += event.ids.length;
    }
    expect(tokens).toBe(5);
    expect(cuda.take().waits).toEqual({ readInto: 5 });
  });

  it("bits per byte, on the model's device unless told otherwise", async () => {
    const tokens = data.sample(0).tokens;
    const batch = { indices: [0], tokens, batch: 1, seqLen: LENGTH, documents: [0, 7, LENGTH] };
    const byteLength = () => 1;
    const exact = await arBitsPerByte(model, [batch], { byteLength });
    const bound = await diffusionBound(model, [batch], { byteLength, mcSamples: 2, autocast: "bfloat16" });
    expect(exact.bitsPerByte).toBeGreaterThan(0);
    expect(bound.bitsPerByte).toBeGreaterThan(0);
    expect(cuda.take().waits).toEqual({ read: 3 });
  });
});

it("the fake device notices what a real one would not take", () => {
  torch.scope(() => {
    const here = torch.ones([4], { device: "cuda" });
    expect(() => here.add(torch.ones([4]))).toThrow(/two devices/);
    expect(() => here.index(torch.tensor([0], { dtype: "int64" }))).toThrow(/another device/);
    cuda.take();
    here.sum().item();
    here.gt(0).nonzero();
    here.cpu();
    torch.tensor([1, 2], { device: "cuda" });
    torch.tensor([1, 2], { device: "cuda", pinMemory: true });
    expect(cuda.take().waits).toEqual({ item: 1, nonzero: 1, "copy (to)": 2 });
  });
});
