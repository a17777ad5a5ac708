import { describe, expect, it } from "vitest";
import { StableDiffCoder } from "../../lib/checkpoint/index.js";
import { arBitsPerByte, diffusionBound } from "../../lib/diffusion/index.js";
import { type BlockGenerationOptions, generateAutoregressive, generateBlocks } from "../../lib/engine/index.js";
import { Decoder, type PresetName, presetConfig } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import { type SamplerCase, samplerCases } from "../diffusion/fixture.js";
import { fixture } from "../nn/golden.js";
import { decodeAutoregressive, decodeBlocks, type ReferenceBlockOptions } from "../reference/sampler.js";
import { device, memory, onGpu, record, sized, synchronize } from "./support.js";

async function byBlocks(model: Decoder, prompt: number[], options: BlockGenerationOptions) {
  const commits: number[][] = [];
  const ids: number[] = [];
  let forwards = 0;
  for await (const event of generateBlocks(model, prompt, { stopTokenIds: [], ...options })) {
    if (event.type === "denoise") commits.push(event.committed.map(({ position }) => position));
    if (event.type === "text") ids.push(...event.ids);
    if (event.type === "done") forwards = event.usage.forwards;
  }
  return { commits, ids, forwards };
}

async function oneByOne(model: Decoder, prompt: number[], maxTokens: number) {
  const ids: number[] = [];
  for await (const event of generateAutoregressive(model, prompt, { maxTokens, stopTokenIds: [] })) {
    if (event.type === "text") ids.push(...event.ids);
  }
  return ids;
}

const optionsOf = (c: SamplerCase): BlockGenerationOptions => ({
  maxTokens: c.maxTokens,
  blockSize: c.size,
  commit: c.threshold === undefined ? { rule: "static", steps: c.steps } : { rule: "threshold", value: c.threshold },
  shift: c.shift ?? false,
});

describe("the tokens that transformers chooses on the CPU", () => {
  it.each(samplerCases)("$name: the same tokens in the same order", async (c) => {
    using coder = await StableDiffCoder.fromPretrained(fixture("diffusion"), { device, dtype: "float32" });
    for (const maxNumBatchedTokens of [512, 4]) {
      const { ids, commits } = await byBlocks(coder.model, c.prompt, { ...optionsOf(c), maxNumBatchedTokens });
      expect(ids).toEqual(c.tokens);
      expect(commits).toEqual(c.commits);
    }
    expect(await oneByOne(coder.model, c.prompt, c.autoregressive.length)).toEqual(c.autoregressive);
  });
});

describe("a random model", () => {
  // Spread weights: the most likely token then leads by far more than rounding.
  const config = presetConfig("tiny", { vocabSize: 512, initializerRange: 0.2 });
  const make = (on: string) => new Decoder(config, { device: on, generator: new torch.Generator({ seed: 5 }) });
  const prompt = Array.from({ length: 301 }, (_, i) => 8 + ((i * 37) % 500));

  it("float32: the oracle's tokens on the CPU, greedily and with a temperature", async () => {
    using there = make("cpu");
    using here = make(device);
    const variants: ReferenceBlockOptions[] = [
      { maxTokens: 24 },
      { maxTokens: 24, commit: { rule: "threshold", value: 0.3 } },
      { maxTokens: 24, temperature: 0.7, topK: 20, topP: 0.95, seed: 3 },
    ];
    for (const options of variants) {
      const { ids } = decodeBlocks(there, prompt, options);
      for (const maxNumBatchedTokens of [512, 128]) {
        expect((await byBlocks(here, prompt, { ...options, maxNumBatchedTokens })).ids).toEqual(ids);
      }
    }
    expect(await oneByOne(here, prompt, 16)).toEqual(decodeAutoregressive(there, prompt, { maxTokens: 16 }).ids);
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
