import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { StableDiffCoder } from "../../lib/checkpoint/index.js";
import type { Engine, EngineEvent, GenerateOptions } from "../../lib/engine/index.js";
import type { Architecture } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import { collect, here, randomPrompt, reference, sharpCoder } from "./support.js";

let coder: StableDiffCoder;
let engine: Engine;
beforeAll(async () => {
  coder = sharpCoder();
  engine = await here(coder, { cacheTokens: 4096 });
});
afterAll(async () => {
  await engine.close();
  coder.dispose();
});

const rules: GenerateOptions["commit"][] = [
  { rule: "static" },
  { rule: "static", steps: 2 },
  { rule: "threshold", value: 0.6 },
  { rule: "hybrid", value: 0.7, steps: 3 },
  { rule: "factor", factor: 1.2 },
  { rule: "entropy", bound: 0.4 },
];

const logprobs = (events: readonly EngineEvent[]) =>
  events.flatMap((event) => (event.type === "text" ? event.tokens.map(({ logprob }) => logprob) : []));

/** Many requests of all kinds. */
function jobs(count: number, more: GenerateOptions = {}): { prompt: number[]; options: GenerateOptions }[] {
  return Array.from({ length: count }, (_, i) => {
    const options: GenerateOptions = { maxTokens: 5 + ((7 * i) % 23), seed: i, stopTokenIds: [], ...more };
    const isAr = i % 5 === 4;
    Object.assign(
      options,
      isAr ? { mode: "autoregressive" } : { blockSize: [1, 4, 8, 3, 16][i % 5 || 1], commit: rules[i % 6] },
    );
    return { prompt: randomPrompt(i, 1 + ((13 * i) % 70)), options };
  });
}

describe("the engine equals the oracle, token for token", () => {
  it.each([
    ["greedy", {}],
    ["tempered", { temperature: 0.9 }],
    ["top-k", { temperature: 1.1, topK: 7 }],
    ["top-p", { temperature: 1, topP: 0.8 }],
    ["min-p", { temperature: 1.2, minP: 0.05 }],
    ["all filters", { temperature: 1.2, minP: 0.01, topK: 30, topP: 0.95 }],
  ] as [string, GenerateOptions][])("%s: 24 requests of all kinds in one batch", async (_, more) => {
    const all = jobs(24, more);
    const got = await Promise.all(all.map(({ prompt, options }) => collect(engine, prompt, options)));
    for (const [i, { prompt, options }] of all.entries()) {
      const { ids, commits } = await reference(coder, prompt, options);
      expect(got[i].ids, `request ${i}`).toEqual(ids);
      const denoised = got[i].events.filter((event) => event.type === "denoise");
      if (options.mode !== "autoregressive") {
        expect(denoised.map((event) => event.committed.map(({ position }) => position).sort((a, b) => a - b))).toEqual(
          commits,
        );
      }
    }
  });

  it.each<Architecture>(["Qwen3ForCausalLM", "MistralForCausalLM"])(
    "%s, requests of all kinds",
    async (architecture) => {
      using own = sharpCoder({ architecture, headDim: 12 });
      // Norms whose weights are all alike would hide that they are applied at all.
      using generator = new torch.Generator({ seed: 4 });
      torch.noGrad(() => {
        for (const tensor of own.model.parameters()) {
          if (tensor.ndim === 1)
            torch.scope(() => tensor.add_(torch.randn(tensor.shape, { generator }), { alpha: 0.2 }));
        }
      });
      await using serving = await here(own, { cacheTokens: 2048, pageSize: 8, maxNumBatchedTokens: 23 });
      const all = jobs(12);
      const got = await Promise.all(all.map(({ prompt, options }) => collect(serving, prompt, options)));
      for (const [i, { prompt, options }] of all.entries()) {
        expect(got[i].ids, `request ${i}`).toEqual((await reference(own, prompt, options)).ids);
      }
    },
  );

  it("for any prompt and options, with any chunking of the prompt and any page size", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          lengths: fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 5 }),
          maxNumBatchedTokens: fc.integer({ min: 1, max: 40 }),
          pageSize: fc.constantFrom(1, 3, 8, 16, 20, 32, 70),
          blockSize: fc.integer({ min: 1, max: 9 }),
          maxTokens: fc.integer({ min: 1, max: 20 }),
          rule: fc.constantFrom(...rules),
          temperature: fc.constantFrom(0, 1),
          shift: fc.boolean(),
          seed: fc.nat(1000),
        }),
        async ({ lengths, maxNumBatchedTokens, pageSize, shift, rule, ...rest }) => {
          const own = await here(coder, { cacheTokens: 700, maxNumBatchedTokens, pageSize, shift });
          const options: GenerateOptions = { ...rest, commit: rule, stopTokenIds: [] };
          const prompts = lengths.map((length) => randomPrompt(rest.seed + length, length));
          const got = await Promise.all(prompts.map((prompt) => collect(own, prompt, options)));
          for (const [i, prompt] of prompts.entries()) {
            expect(got[i].ids).toEqual((await reference(coder, prompt, { ...options, shift })).ids);
          }
          await own.close();
        },
      ),
      { numRuns: 40 },
    );
  });

  it("alone, in a batch and after pre-emption a seeded request gives the same text and the same bits", async () => {
    // Memory for some two of the requests: the others are thrown out and computed again, again and again.
    const tight = await here(coder, { cacheTokens: 192, pageSize: 8, maxNumSeqs: 16, prefixCache: false });
    const all = jobs(16, { temperature: 0.8 });
    const together = await Promise.all(all.map(({ prompt, options }) => collect(tight, prompt, options)));
    expect(tight.stats().counters.preemptions).toBeGreaterThan(5);
    expect(tight.stats().pages.used).toBe(0);
    const roomy = await here(coder, { cacheTokens: 4096, pageSize: 8, maxNumBatchedTokens: 23 });
    for (const [i, { prompt, options }] of all.entries()) {
      const alone = await collect(roomy, prompt, options);
      expect(together[i].ids).toEqual(alone.ids);
      expect(logprobs(together[i].events)).toEqual(logprobs(alone.events));
    }
    await Promise.all([tight.close(), roomy.close()]);
  });

  it("with the prefix cache and without, and the cache is used", async () => {
    const prefix = randomPrompt(1, 100);
    const all = Array.from({ length: 8 }, (_, i) => ({
      prompt: [...prefix.slice(0, 60 + 5 * i), ...randomPrompt(50 + i, 9)],
      options: { maxTokens: 12, blockSize: i % 2 ? 4 : 8, stopTokenIds: [] } as GenerateOptions,
    }));
    const cached = await here(coder, { pageSize: 8, cacheTokens: 2048 });
    let hits = 0;
    for (const { prompt, options } of all) {
      const { events, ids } = await collect(cached, prompt, options);
      const [start] = events;
      if (start.type === "start") hits += start.cachedTokens;
      expect(ids).toEqual((await reference(coder, prompt, options)).ids);
    }
    expect(hits).toBeGreaterThan(6 * 48);
    expect(cached.stats().counters.prefixCacheHits).toBe(hits);
    // A page that another sequence finished is as good as a prompt's: the output of one is the prefix of the next.
    const first = await collect(cached, prefix, { maxTokens: 40, stopTokenIds: [] });
    const second = await collect(cached, [...prefix, ...first.ids], { maxTokens: 8, stopTokenIds: [] });
    expect(second.events[0]).toMatchObject({ type: "start", cachedTokens: 136 });
    expect(second.ids).toEqual(
      (await reference(coder, [...prefix, ...first.ids], { maxTokens: 8, stopTokenIds: [] })).ids,
    );
    await cached.close();
  });
});
