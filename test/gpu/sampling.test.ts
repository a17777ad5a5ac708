import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { StableDiffCoder } from "../../lib/checkpoint/index.js";
import {
  arBitsPerByte,
  type BlockGenerationOptions,
  diffusionBound,
  generateAutoregressive,
  generateBlocks,
  type SamplerDenoiseEvent,
  type SamplerDoneEvent,
} from "../../lib/diffusion/index.js";
import { Decoder, type PresetName, presetConfig } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import { fixture } from "../nn/golden.js";
import { device, memory, onGpu, record, sized, synchronize } from "./support.js";

interface GoldenCase {
  prompt: number[];
  maxTokens: number;
  size: number;
  steps?: number;
  threshold?: number;
  shift?: boolean;
  tokens: number[];
  commits: number[][];
  autoregressive: number[];
}

const golden = JSON.parse(readFileSync(fixture("diffusion/sampler.json"), "utf8")) as GoldenCase[];

async function byBlocks(model: Decoder, prompt: number[], options: BlockGenerationOptions) {
  const commits: number[][] = [];
  let done: SamplerDoneEvent | undefined;
  for await (const event of generateBlocks(model, prompt, { stopTokenIds: [], ...options })) {
    if (event.type === "denoise") commits.push((event satisfies SamplerDenoiseEvent).committed);
    if (event.type === "done") done = event;
  }
  if (done === undefined) throw new Error("no end");
  return { commits, ids: done.ids, forwards: done.forwards };
}

async function oneByOne(model: Decoder, prompt: number[], maxTokens: number, more: { cache?: boolean } = {}) {
  for await (const event of generateAutoregressive(model, prompt, { maxTokens, stopTokenIds: [], ...more })) {
    if (event.type === "done") return event.ids;
  }
  throw new Error("no end");
}

const optionsOf = (c: GoldenCase): BlockGenerationOptions => ({
  maxTokens: c.maxTokens,
  blockSize: c.size,
  commit: c.threshold === undefined ? { rule: "static", steps: c.steps } : { rule: "threshold", value: c.threshold },
  shift: c.shift ?? false,
});

describe("the tokens that transformers chooses on the CPU", () => {
  const modes = [
    { cache: true },
    { cache: true, fusedStore: false },
    { cache: true, prefillChunk: 4 },
    { cache: false },
  ];

  it.each(golden.map((c, i) => [i, c] as const))(
    "case %i: the same tokens in the same order in every mode",
    async (_, c) => {
      using coder = await StableDiffCoder.fromPretrained(fixture("diffusion"), { device, dtype: "float32" });
      for (const mode of modes) {
        const { ids, commits } = await byBlocks(coder.model, c.prompt, { ...optionsOf(c), ...mode });
        expect(ids).toEqual(c.tokens);
        expect(commits).toEqual(c.commits);
      }
      for (const cache of [true, false]) {
        expect(await oneByOne(coder.model, c.prompt, c.autoregressive.length, { cache })).toEqual(c.autoregressive);
      }
    },
  );
});

describe("a random model", () => {
  // Spread weights: the likeliest token then leads by far more than rounding.
  const config = presetConfig("tiny", { vocabSize: 512, initializerRange: 0.2 });
  const make = (on: string) => new Decoder(config, { device: on, generator: new torch.Generator({ seed: 5 }) });
  const prompt = Array.from({ length: 301 }, (_, i) => 8 + ((i * 37) % 500));

  it("float32: the CPU's tokens, greedily and with a temperature, with and without cache", async () => {
    using there = make("cpu");
    using here = make(device);
    const variants: BlockGenerationOptions[] = [
      { maxTokens: 24 },
      { maxTokens: 24, commit: { rule: "threshold", value: 0.3 } },
      { maxTokens: 24, temperature: 0.7, topK: 20, topP: 0.95, seed: 3 },
    ];
    for (const options of variants) {
      const expected = await byBlocks(there, prompt, options);
      for (const mode of [{ prefillChunk: 128 }, { cache: false }]) {
        expect((await byBlocks(here, prompt, { ...options, ...mode })).ids).toEqual(expected.ids);
      }
    }
    expect(await oneByOne(here, prompt, 16)).toEqual(await oneByOne(there, prompt, 16));
  });

  it("bfloat16: the same tokens every time", async () => {
    using here = make("cpu").to({ device, dtype: "bfloat16" });
    const first = await byBlocks(here, prompt, { maxTokens: 24 });
    expect(first.ids).toHaveLength(24);
    expect(first.ids.every((id) => id >= 0 && id < 512 && id !== config.maskTokenId)).toBe(true);
    expect(await byBlocks(here, prompt, { maxTokens: 24 })).toEqual(first);
  });

  it("bits per byte are the CPU's", async () => {
    using there = make("cpu");
    using here = make(device);
    const length = 64;
    const tokens = Int32Array.from({ length: 2 * length }, (_, i) => 8 + ((i * 29) % 500));
    const batch = { indices: [0, 1], tokens, batch: 2, seqLen: length, documents: [0, 20, 64, 128] };
    const options = { byteLength: () => 3, mcSamples: 3 };
    for (const measure of [arBitsPerByte, diffusionBound]) {
      const [a, b] = [await measure(here, [batch], options), await measure(there, [batch], options)];
      expect(Math.abs(a.bitsPerByte / b.bitsPerByte - 1)).toBeLessThan(1e-5);
    }
  });
});

describe("decoding speed", () => {
  interface Case {
    preset: PresetName;
    promptLength: number;
    tokens: number;
    /** Bytes of device memory. */
    needs: number;
  }
  const presets = sized<Case[]>(
    [
      { preset: "125m", promptLength: 512, tokens: 128, needs: 8e9 },
      { preset: "seed-coder-8b", promptLength: 512, tokens: 128, needs: 30e9 },
    ],
    [{ preset: "tiny", promptLength: 20, tokens: 8, needs: 0 }],
  );

  it.each(presets)("$preset in bfloat16, batch 1", async ({ preset, promptLength, tokens, needs }) => {
    if (onGpu && torch.cuda.memoryStats().total < needs) {
      record(`decoding ${preset}`, `left out: the device has less than ${needs / 1e9} GB`);
      return;
    }
    const config = presetConfig(preset);
    memory.reset();
    using model = new Decoder(config, { device, dtype: "bfloat16", init: false });
    for (const weight of model.parameters()) {
      torch.noGrad(() => (weight.ndim > 1 ? torch.ops.aten.normal_(weight, 0, 0.02) : weight.fill_(1)));
    }
    const prompt = Array.from({ length: promptLength }, (_, i) => 8 + ((i * 37) % (config.vocabSize - 8)));
    const timed = async <T>(run: () => Promise<T>) => {
      await run();
      synchronize();
      const start = performance.now();
      const result = await run();
      return { result, seconds: (performance.now() - start) / 1000 };
    };
    const say = (name: string, seconds: number, forwards: number) =>
      record(
        `decoding ${preset} bf16, prompt ${promptLength}, ${tokens} tokens, ${name}`,
        `${(tokens / seconds).toFixed(1)} tokens/s, ${forwards} forwards, ${((1000 * seconds) / forwards).toFixed(2)} ms each`,
      );
    const ar = await timed(() => oneByOne(model, prompt, tokens));
    expect(ar.result).toHaveLength(tokens);
    say("token by token", ar.seconds, tokens);
    const variants: Record<string, BlockGenerationOptions> = {
      "B 4, one token a pass": { maxTokens: tokens, blockSize: 4 },
      "B 4, two tokens a pass": { maxTokens: tokens, blockSize: 4, commit: { rule: "static", steps: 2 } },
      "B 32, four tokens a pass": { maxTokens: tokens, blockSize: 32, commit: { rule: "static", steps: 8 } },
    };
    for (const [name, options] of Object.entries(variants)) {
      const { result, seconds } = await timed(() => byBlocks(model, prompt, options));
      expect(result.ids).toHaveLength(tokens);
      say(name, seconds, result.forwards);
    }
    record(`decoding ${preset} bf16, memory`, `${(memory.peak() / 1e9).toFixed(1)} GB`);
  });
});
