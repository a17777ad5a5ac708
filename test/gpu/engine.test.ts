import { describe, expect, it } from "vitest";
import { Engine, type GenerateOptions } from "../../lib/engine/index.js";
import * as torch from "../../lib/torch/index.js";
import { collect, randomPrompt, reference, sharpCoder } from "../engine/support.js";
import { device } from "./support.js";

describe("the engine on the device", () => {
  it("equals the plain samplers in float32, many requests in one batch, also after pre-emption", async () => {
    const coder = sharpCoder().to({ device });
    const tight = await Engine.create({ model: coder, thread: false, cacheTokens: 192, pageSize: 8, maxRunning: 8 });
    const all = Array.from({ length: 12 }, (_, i) => {
      const diffusion = { blockSize: [1, 4, 8][i % 3], commit: { rule: "threshold", value: 0.6 } } as const;
      const options: GenerateOptions = { maxTokens: 6 + i, seed: i, temperature: i % 2, stopIds: [] };
      return {
        prompt: randomPrompt(i, 1 + 5 * i),
        options: { ...options, ...(i % 4 === 3 ? { mode: "autoregressive" as const } : diffusion) },
      };
    });
    const got = await Promise.all(all.map(({ prompt, options }) => collect(tight, prompt, options)));
    for (const [i, { prompt, options }] of all.entries()) {
      expect(got[i].ids, `request ${i}`).toEqual((await reference(coder, prompt, options)).ids);
    }
    expect(tight.stats().pages.used).toBe(0);
    await tight.close();
    coder.dispose();
  });

  it("decodes in bfloat16 and leaks nothing", async () => {
    const coder = sharpCoder({ headDim: 64 }).to({ device, dtype: "bfloat16" });
    const engine = await Engine.create({ model: coder, thread: false });
    const options: GenerateOptions = { maxTokens: 24, stopIds: [], n: 2, temperature: 1, seed: 1, logprobs: 2 };
    const run = () => Promise.all([1, 2, 3].map((seed) => engine.complete(randomPrompt(seed, 40), options)));
    const first = await run();
    const before = torch.memory();
    const second = await run();
    expect(torch.memory()).toEqual(before);
    expect(second.flat().map(({ ids }) => ids.length)).toEqual(new Array(6).fill(24));
    expect(first.length).toBe(3);
    await engine.close();
    coder.dispose();
  });
});
