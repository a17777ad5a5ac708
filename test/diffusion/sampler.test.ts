import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type BlockGenerationEvent,
  type BlockGenerationOptions,
  type CommitConfig,
  confidenceThreshold,
  DiffusionError,
  generateAutoregressive,
  generateBlocks,
  type SamplerDenoiseEvent,
  type SamplerDoneEvent,
} from "../../lib/diffusion/index.js";
import type { Decoder } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import { heldTensors } from "../torch/held-tensors.js";
import { MASK, readJson, tinyModel } from "./fixture.js";

interface GoldenCase {
  prompt: number[];
  maxTokens: number;
  size: number;
  steps?: number;
  threshold?: number;
  shift?: boolean;
  tokens: number[];
  commits: number[][];
  stop: number[];
  stopped: number[];
  stoppedForwards: number;
  stopId: number;
  autoregressive: number[];
}

let model: Decoder;
beforeAll(async () => {
  model = await tinyModel();
});
afterAll(() => model.dispose());

async function decode(prompt: number[], options: BlockGenerationOptions, of = model) {
  const events: BlockGenerationEvent[] = [];
  for await (const event of generateBlocks(of, prompt, options)) events.push(event);
  const denoise = events.filter((event): event is SamplerDenoiseEvent => event.type === "denoise");
  return { events, denoise, done: events.at(-1) as SamplerDoneEvent };
}

const golden = readJson<GoldenCase[]>("sampler");
const modes = [
  { cache: true, fusedStore: true },
  { cache: true, fusedStore: false },
  { cache: true, fusedStore: true, prefillChunk: 4 },
  { cache: false },
];

function optionsOf(c: GoldenCase): BlockGenerationOptions {
  const commit: CommitConfig =
    c.threshold === undefined ? { rule: "static", steps: c.steps } : { rule: "threshold", value: c.threshold };
  return { maxTokens: c.maxTokens, blockSize: c.size, commit, shift: c.shift ?? false, stopTokenIds: [] };
}

describe("block decoding against transformers without a cache", () => {
  for (const c of golden) {
    const name = `B ${c.size}, ${c.threshold === undefined ? `steps ${c.steps ?? "all"}` : `threshold ${c.threshold}`}${c.shift ? ", shift" : ""}`;
    it(`${name}: the same tokens, committed in the same order, in every mode`, async () => {
      for (const mode of modes) {
        const { denoise, done } = await decode(c.prompt, { ...optionsOf(c), ...mode });
        expect(done.ids).toEqual(c.tokens);
        expect(denoise.map((event) => event.committed)).toEqual(c.commits);
        expect(done.finishReason).toBe("length");
      }
    });

    it(`${name}: stops at a stop token once everything before it is known`, async () => {
      for (const mode of modes) {
        const { denoise, done } = await decode(c.prompt, { ...optionsOf(c), ...mode, stopTokenIds: c.stop });
        expect(done).toMatchObject({ ids: c.stopped, finishReason: "stop", stopId: c.stopId });
        expect(denoise.length).toBe(c.stoppedForwards);
      }
    });

    it(`${name}: the AR decoder agrees too, cached and not`, async () => {
      for (const cache of [true, false]) {
        const ids: number[] = [];
        let done: SamplerDoneEvent | undefined;
        for await (const event of generateAutoregressive(model, c.prompt, {
          maxTokens: c.maxTokens,
          stopTokenIds: [],
          cache,
          prefillChunk: 3,
        })) {
          if (event.type === "token") ids.push(event.id);
          else done = event;
        }
        expect(ids).toEqual(c.autoregressive);
        expect(done?.ids).toEqual(ids);
      }
    });
  }
});

describe("how many forwards", () => {
  const prompt = [7, 8, 9, 10, 11, 12, 13, 14];
  const options = { maxTokens: 20, blockSize: 4, commit: { rule: "static", steps: 4 } as const, stopTokenIds: [] };

  it("fused: 4 per block of 4, the prompt and finished blocks ride along", async () => {
    const { done, denoise } = await decode(prompt, options);
    expect(done.forwards).toBe(5 * 4);
    expect(denoise.length).toBe(5 * 4);
  });

  it("unfused: 5 per block, the prompt's store counted, none after the last", async () => {
    const { done } = await decode(prompt, { ...options, fusedStore: false });
    expect(done.forwards).toBe(5 * 5);
    expect((await decode([], { ...options, fusedStore: false })).done.forwards).toBe(5 * 5 - 1);
  });

  it("fewer steps, fewer forwards: ceiling B tokens per forward fused", async () => {
    for (const steps of [1, 2, 3]) {
      const { done } = await decode(prompt, { ...options, commit: { rule: "static", steps } });
      expect(done.forwards).toBe(5 * steps);
      expect(done.ids.length).toBe(20);
    }
  });

  it("a threshold nobody reaches commits one per pass, one that all reach the whole block", async () => {
    const never = await decode(prompt, { ...options, commit: confidenceThreshold(1) });
    expect(never.denoise.every((event) => event.committed.length === 1)).toBe(true);
    const always = await decode(prompt, { ...options, commit: confidenceThreshold(0) });
    expect(always.denoise.every((event) => event.committed.length === 4)).toBe(true);
    expect(always.done.forwards).toBe(5);
  });

  it("AR: one per token, the prompt in the first", async () => {
    let done: SamplerDoneEvent | undefined;
    for await (const event of generateAutoregressive(model, prompt, { maxTokens: 20, stopTokenIds: [] })) {
      if (event.type === "done") done = event;
    }
    expect(done).toMatchObject({ forwards: 20, finishReason: "length" });
  });

  it("a long prompt is taken in chunks", async () => {
    const long = Array.from({ length: 41 }, (_, i) => 6 + (i % 40));
    const chunked = await decode(long, { ...options, maxTokens: 7, prefillChunk: 9 });
    const whole = await decode(long, { ...options, maxTokens: 7 });
    expect(chunked.done.ids).toEqual(whole.done.ids);
    // 40 tokens in chunks of 8: four of their own, the fifth rides with the first pass.
    expect(chunked.done.forwards).toBe(whole.done.forwards + 4);
  });
});

describe("for any prompt and options", () => {
  const cases = fc.record({
    prompt: fc.array(fc.integer({ min: 6, max: 47 }), { minLength: 1, maxLength: 13 }),
    maxTokens: fc.integer({ min: 1, max: 14 }),
    blockSize: fc.integer({ min: 1, max: 6 }),
    steps: fc.integer({ min: 1, max: 6 }),
    threshold: fc.option(fc.double({ min: 0.1, max: 0.9, noNaN: true })),
    temperature: fc.constantFrom(0, 0, 0.7),
    topK: fc.constantFrom(0, 5),
    topP: fc.constantFrom(1, 0.8),
    seed: fc.nat(1000),
    shift: fc.boolean(),
    fusedStore: fc.boolean(),
    prefillChunk: fc.integer({ min: 1, max: 12 }),
  });

  it("cache on equals cache off, fused equals unfused, maxTokens is exact, blocks tile the output", async () => {
    // In float64, where rounding does not decide a near tie one way here and the other way there.
    const exact = await tinyModel("diffusion", "float64");
    await fc.assert(
      fc.asyncProperty(cases, async ({ prompt, threshold, steps, ...rest }) => {
        const commit: CommitConfig =
          threshold === null ? { rule: "static", steps } : { rule: "threshold", value: threshold };
        const options = { ...rest, commit, stopTokenIds: [] };
        const plain = await decode(prompt, { ...options, cache: false }, exact);
        const cached = await decode(prompt, options, exact);
        expect(cached.done.ids).toEqual(plain.done.ids);
        expect(cached.denoise.map((e) => e.committed)).toEqual(plain.denoise.map((e) => e.committed));

        const { events, denoise, done } = cached;
        expect(done.ids.length).toBe(rest.maxTokens);
        expect(done.ids).not.toContain(MASK);
        const blocks = events.filter((event) => event.type === "block");
        expect(blocks.flatMap((event) => event.ids)).toEqual(done.ids);
        let next = prompt.length;
        for (const { start, ids } of blocks) {
          expect(start).toBe(next);
          next += ids.length;
          expect(next % rest.blockSize === 0 || next === prompt.length + rest.maxTokens).toBe(true);
        }
        // What is committed stays, and each position is committed once.
        const committed = denoise.flatMap((event) => event.committed);
        expect([...committed].sort((a, b) => a - b)).toEqual(done.ids.map((_, i) => prompt.length + i));
        for (const { canvas, committed: positions, confidence, start, end } of denoise) {
          for (const p of positions) expect(canvas[p - prompt.length]).toBe(done.ids[p - prompt.length]);
          expect([...canvas].every((id, i) => id === MASK || id === done.ids[i])).toBe(true);
          expect(confidence.length).toBe(end - start);
          expect(confidence.every((p) => p > 0 && p <= 1)).toBe(true);
        }
      }),
      { numRuns: 60 },
    );
    exact.dispose();
  });
});

describe("sampling with temperature", () => {
  const prompt = [7, 8, 9, 10, 11];
  const options = { maxTokens: 24, temperature: 1, stopTokenIds: [] };

  it("a seed gives its tokens, another seed others", async () => {
    const runs = await Promise.all([1, 1, 2, 3].map((seed) => decode(prompt, { ...options, seed })));
    const texts = runs.map((run) => run.done.ids.join());
    expect(texts[0]).toBe(texts[1]);
    expect(new Set(texts).size).toBe(3);
  });

  it("topK = 1 is the most likely token whatever the temperature", async () => {
    const greedy = await decode(prompt, { maxTokens: 24, stopTokenIds: [] });
    expect((await decode(prompt, { ...options, topK: 1 })).done.ids).toEqual(greedy.done.ids);
    expect((await decode(prompt, { ...options, topP: 1e-9 })).done.ids).toEqual(greedy.done.ids);
  });
});

describe("ends and errors", () => {
  const prompt = [7, 8, 9];

  it("the model's own end token stops by default", async () => {
    const { done } = await decode(prompt, { maxTokens: 12, stopTokenIds: [] });
    const own = await tinyModel();
    Object.assign(own, { config: { ...model.config, eosTokenId: [done.ids[2]] } });
    let end: SamplerDoneEvent | undefined;
    for await (const event of generateBlocks(own, prompt, { maxTokens: 12 })) if (event.type === "done") end = event;
    expect(end).toMatchObject({ finishReason: "stop", stopId: done.ids[2] });
    expect(end?.ids).toEqual(done.ids.slice(0, done.ids.indexOf(done.ids[2])));
    own.dispose();
  });

  it("an abort keeps what was committed and stops the model at once", async () => {
    const full = await decode(prompt, { maxTokens: 16, stopTokenIds: [] });
    const controller = new AbortController();
    const events: BlockGenerationEvent[] = [];
    for await (const event of generateBlocks(model, prompt, {
      maxTokens: 16,
      stopTokenIds: [],
      signal: controller.signal,
    })) {
      events.push(event);
      if (event.type === "block" && event.block === 1) controller.abort();
    }
    const done = events.at(-1) as SamplerDoneEvent;
    expect(done.finishReason).toBe("abort");
    expect(done.ids).toEqual(full.done.ids.slice(0, 5)); // one token completes block 0, then block 1
    expect(done.forwards).toBe(1 + 4);
    const before = new AbortController();
    before.abort();
    const none = await decode(prompt, { maxTokens: 4, signal: before.signal });
    expect(none.done).toEqual({ type: "done", ids: [], finishReason: "abort", forwards: 0 });
  });

  it("frees everything, also when the consumer leaves early", async () => {
    const before = heldTensors();
    await decode(prompt, { maxTokens: 9, stopTokenIds: [] });
    await decode(prompt, { maxTokens: 9, stopTokenIds: [], cache: false, temperature: 1 });
    for await (const _ of generateBlocks(model, prompt, { maxTokens: 9, stopTokenIds: [] })) break;
    for await (const _ of generateAutoregressive(model, prompt, { maxTokens: 9, stopTokenIds: [] })) break;
    expect(heldTensors()).toBe(before);
  });

  it("lets other work of the process go on between passes", async () => {
    let turns = 0;
    const timer = setImmediate(function again() {
      turns++;
      if (turns < 1000) setImmediate(again);
    });
    const { done } = await decode(prompt, { maxTokens: 12, stopTokenIds: [] });
    clearImmediate(timer);
    expect(turns).toBeGreaterThanOrEqual(done.forwards - 1);
    turns = 1000;
  });

  it("clear errors for what cannot be done", async () => {
    const failing: [number[], BlockGenerationOptions, RegExp][] = [
      [prompt, { maxTokens: 0 }, /maxTokens/],
      [prompt, { maxTokens: 4, temprature: 1 } as never, /temprature/],
      [prompt, { maxTokens: 4, commit: { rule: "statik" } } as never, /rule/],
      [prompt, { maxTokens: 62 }, /context of 64/],
      [[7, MASK], { maxTokens: 4 }, /prompt token 1 is the mask/],
      [[7, 48], { maxTokens: 4 }, /prompt token 1 is 48/],
      [[], { maxTokens: 4, shift: true }, /empty/],
      [prompt, { maxTokens: 4, maskId: 48 }, /outside the vocabulary/],
      [prompt, { maxTokens: 4, commit: { name: "none", choose: () => [] } }, /commit rule "none"/],
      [prompt, { maxTokens: 4, commit: { name: "twice", choose: () => [0, 0] } }, /commit rule "twice"/],
    ];
    for (const [ids, options, message] of failing) {
      const attempt = decode(ids, options);
      await expect(attempt).rejects.toThrow(DiffusionError);
      await expect(attempt).rejects.toThrow(message);
    }
    await expect(generateAutoregressive(model, [], { maxTokens: 1 }).next()).rejects.toThrow(/empty/);
  });

  it("says so when the weights give no numbers", async () => {
    const broken = await tinyModel();
    torch.noGrad(() => broken.norm.weight.fill_(Number.NaN));
    for (const temperature of [0, 1]) {
      const attempt = generateBlocks(broken, prompt, { maxTokens: 4, temperature }).next();
      await expect(attempt).rejects.toThrow(/NaN/);
    }
    broken.dispose();
  });

  it("an empty prompt starts from nothing", async () => {
    expect((await decode([], { maxTokens: 6, stopTokenIds: [] })).done.ids.length).toBe(6);
  });
});
