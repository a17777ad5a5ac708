import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { StableDiffCoder } from "../../lib/checkpoint/index.js";
import { type CommitConfig, type CommitRule, confidenceThreshold } from "../../lib/diffusion/index.js";
import {
  type AutoregressiveGenerationOptions,
  type BlockGenerationOptions,
  type DenoiseEvent,
  type DoneEvent,
  EngineError,
  type EngineEvent,
  generateAutoregressive,
  generateBlocks,
} from "../../lib/engine/index.js";
import { PagedKVCache } from "../../lib/engine/paged-kv-cache.js";
import type { Decoder } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import { MASK, type SamplerCase, samplerCases, tinyModel } from "../diffusion/fixture.js";
import { decodeBlocks } from "../reference/sampler.js";
import { heldTensors } from "../torch/held-tensors.js";
import { sharpCoder, TOKENIZER } from "./support.js";

let model: Decoder;
beforeAll(async () => {
  model = await tinyModel();
});
afterAll(() => model.dispose());

interface Decoded {
  events: EngineEvent[];
  ids: number[];
  commits: number[][];
  done: DoneEvent;
}

async function collect(stream: AsyncIterable<EngineEvent>): Promise<Decoded> {
  const events: EngineEvent[] = [];
  for await (const event of stream) events.push(event);
  return {
    events,
    ids: events.flatMap((event) => (event.type === "text" ? event.ids : [])),
    commits: events
      .filter((event): event is DenoiseEvent => event.type === "denoise")
      .map(({ committed }) => committed.map(({ position }) => position)),
    done: events.at(-1) as DoneEvent,
  };
}

const byBlocks = (prompt: number[], options: BlockGenerationOptions, of: Decoder = model) =>
  collect(generateBlocks(of, prompt, { stopTokenIds: [], ...options }));
const oneByOne = (prompt: number[], options: AutoregressiveGenerationOptions) =>
  collect(generateAutoregressive(model, prompt, { stopTokenIds: [], ...options }));

const optionsOf = (c: SamplerCase): BlockGenerationOptions => ({
  ...{ maxTokens: c.maxTokens, blockSize: c.size, shift: c.shift },
  commit: c.threshold === undefined ? { rule: "static", steps: c.steps } : { rule: "threshold", value: c.threshold },
});

describe("generation in this thread equals transformers without a cache", () => {
  it.each(samplerCases)("$name: the same tokens, committed in the same order", async (c) => {
    for (const maxNumBatchedTokens of [512, 4]) {
      const { ids, commits, done } = await byBlocks(c.prompt, { ...optionsOf(c), maxNumBatchedTokens });
      expect(ids).toEqual(c.tokens);
      expect(commits).toEqual(c.commits);
      expect(done.finishReason).toBe("length");
    }
  });

  it.each(samplerCases)("$name: stops at a stop token once everything before it is known", async (c) => {
    const { ids, commits, done } = await byBlocks(c.prompt, { ...optionsOf(c), stopTokenIds: c.stop });
    expect(ids).toEqual(c.stopped);
    expect(done).toMatchObject({ finishReason: "stop", stopReason: c.stopId });
    expect(commits).toHaveLength(c.stoppedForwards);
  });

  it.each(samplerCases)("$name: token by token, too", async (c) => {
    const { ids } = await oneByOne(c.prompt, { maxTokens: c.maxTokens, maxNumBatchedTokens: 3 });
    expect(ids).toEqual(c.autoregressive);
  });
});

describe("how many forward passes", () => {
  const prompt = [7, 8, 9, 10, 11, 12, 13, 14];
  const options: BlockGenerationOptions = { maxTokens: 20, blockSize: 4 };

  it("4 per block of 4: the prompt and finished blocks are stored by the passes of the next block", async () => {
    const { done, commits } = await byBlocks(prompt, options);
    expect(done.usage).toMatchObject({ forwards: 5 * 4, completionTokens: 20 });
    expect(commits).toHaveLength(5 * 4);
  });

  it("fewer steps, fewer passes", async () => {
    for (const steps of [1, 2, 3]) {
      const { done, ids } = await byBlocks(prompt, { ...options, steps });
      expect(done.usage.forwards).toBe(5 * steps);
      expect(ids).toHaveLength(20);
    }
  });

  it("a threshold nothing reaches commits one per pass, one that all reach the whole block", async () => {
    const never = await byBlocks(prompt, { ...options, commit: confidenceThreshold(1) });
    expect(never.commits.every(({ length }) => length === 1)).toBe(true);
    const always = await byBlocks(prompt, { ...options, commit: confidenceThreshold(0) });
    expect(always.commits.every(({ length }) => length === 4)).toBe(true);
    expect(always.done.usage.forwards).toBe(5);
  });

  it("AR: one per token, the prompt in the first", async () => {
    const { done } = await oneByOne(prompt, { maxTokens: 20 });
    expect(done).toMatchObject({ finishReason: "length", usage: { forwards: 20 } });
  });

  it("a long prompt is computed in chunks", async () => {
    const long = Array.from({ length: 41 }, (_, i) => 6 + (i % 40));
    const chunked = await byBlocks(long, { ...options, maxTokens: 7, maxNumBatchedTokens: 9 });
    const whole = await byBlocks(long, { ...options, maxTokens: 7 });
    expect(chunked.ids).toEqual(whole.ids);
    // 40 tokens in chunks of 8.
    expect(chunked.done.usage.forwards).toBe(whole.done.usage.forwards + 5);
  });
});

it("equals the oracle for any prompt and options; maxTokens is exact, each position is committed once", async () => {
  // In float64, where rounding does not decide a near tie one way here and the other way there.
  const exact = await tinyModel("diffusion", "float64");
  await fc.assert(
    fc.asyncProperty(
      fc.record({
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
        maxNumBatchedTokens: fc.integer({ min: 1, max: 12 }),
      }),
      async ({ prompt, threshold, steps, maxNumBatchedTokens, ...rest }) => {
        const commit: CommitConfig =
          threshold === null ? { rule: "static", steps } : { rule: "threshold", value: threshold };
        const plain = decodeBlocks(exact, prompt, { ...rest, commit });
        const { ids, commits } = await byBlocks(prompt, { ...rest, commit, maxNumBatchedTokens }, exact);
        expect(ids).toEqual(plain.ids);
        expect(commits).toEqual(plain.commits);
        expect(ids).toHaveLength(rest.maxTokens);
        expect(ids).not.toContain(MASK);
        expect(commits.flat().sort((a, b) => a - b)).toEqual(ids.map((_, i) => prompt.length + i));
      },
    ),
    { numRuns: 60 },
  );
  exact.dispose();
});

describe("sampling with temperature", () => {
  const prompt = [7, 8, 9, 10, 11];
  const options = { maxTokens: 24, temperature: 1 };

  it("a seed gives its tokens, another seed others, and no seed a random one", async () => {
    const runs = await Promise.all([1, 1, 2, 3, undefined].map((seed) => byBlocks(prompt, { ...options, seed })));
    const texts = runs.map(({ ids }) => ids.join());
    expect(texts[0]).toBe(texts[1]);
    expect(new Set(texts).size).toBe(4);
  });

  it("topK = 1 is the most likely token whatever the temperature", async () => {
    const greedy = await byBlocks(prompt, { maxTokens: 24 });
    expect((await byBlocks(prompt, { ...options, topK: 1 })).ids).toEqual(greedy.ids);
    expect((await byBlocks(prompt, { ...options, topP: 1e-9 })).ids).toEqual(greedy.ids);
  });

  it("n choices are those of the seeds after the first", async () => {
    const { events } = await byBlocks(prompt, { ...options, seed: 5, n: 3 });
    for (const index of [0, 1, 2]) {
      const ids = events.flatMap((event) => (event.type === "text" && event.index === index ? event.ids : []));
      expect(ids).toEqual((await byBlocks(prompt, { ...options, seed: 5 + index })).ids);
    }
  });
});

describe("a model with a tokenizer", () => {
  let coder: StableDiffCoder;
  beforeAll(() => {
    coder = sharpCoder({ vocabSize: 4096, tokenizer: TOKENIZER, eosTokenId: 2 });
  });
  afterAll(() => coder.dispose());

  it("takes text and gives text, and ends it at stop strings", async () => {
    const textOf = ({ events }: Decoded) => events.map((event) => (event.type === "text" ? event.text : "")).join("");
    const whole = await collect(generateBlocks(coder, "def f(", { maxTokens: 24, stopTokenIds: [] }));
    expect(textOf(whole)).toBe(coder.tokenizer.decode(whole.ids));
    const stop = textOf(whole).slice(5, 8);
    const stopped = await collect(generateBlocks(coder, "def f(", { maxTokens: 24, stopTokenIds: [], stop: [stop] }));
    expect(textOf(stopped)).toBe(textOf(whole).slice(0, textOf(whole).indexOf(stop)));
    const ar = await collect(generateAutoregressive(coder, "def f(", { maxTokens: 8, stopTokenIds: [] }));
    expect(textOf(ar)).toBe(coder.tokenizer.decode(ar.ids));
  });
});

describe("a custom commit rule", () => {
  it("decides which positions are committed, with entropies where it uses them", async () => {
    const states: number[][] = [];
    const last: CommitRule = {
      name: "last first",
      usesEntropy: true,
      choose: (confidence, { step, initiallyMasked, entropy }) => {
        states.push([step, initiallyMasked, entropy?.length ?? 0]);
        return [confidence.length - 1];
      },
    };
    const { commits, ids } = await byBlocks([7, 8, 9, 10], { maxTokens: 8, commit: last });
    expect(commits).toEqual([[7], [6], [5], [4], [11], [10], [9], [8]]);
    const ofBlock = [0, 1, 2, 3].map((step) => [step, 4, 4 - step]);
    expect(states).toEqual([...ofBlock, ...ofBlock]);
    expect(ids).toEqual(decodeBlocks(model, [7, 8, 9, 10], { maxTokens: 8, commit: last }).ids);
  });

  it.each<[string, CommitRule["choose"], RegExp]>([
    ["none", () => [], /commit rule "none" chose \[\] of 4 masked tokens/],
    ["twice", () => [0, 0], /commit rule "twice" chose \[0,0\]/],
    ["outside", () => [4], /commit rule "outside" chose \[4\]/],
    [
      "broken",
      () => {
        throw new Error("oh");
      },
      /commit rule "broken" failed: oh/,
    ],
  ])("is an error where its choice is not valid: %s", async (name, choose, message) => {
    const attempt = byBlocks([7, 8, 9, 10], { maxTokens: 8, commit: { name, choose } });
    await expect(attempt).rejects.toThrow(message);
    await expect(attempt).rejects.toMatchObject({ code: "ENGINE_OPTIONS" });
  });
});

describe("ends and errors", () => {
  const prompt = [7, 8, 9];

  it("the model's own end token stops by default", async () => {
    const { ids } = await byBlocks(prompt, { maxTokens: 12 });
    const own = await tinyModel();
    Object.assign(own, { config: { ...model.config, eosTokenId: [ids[2]] } });
    const ended = await collect(generateBlocks(own, prompt, { maxTokens: 12 }));
    expect(ended.done).toMatchObject({ finishReason: "stop", stopReason: ids[2] });
    expect(ended.ids).toEqual(ids.slice(0, ids.indexOf(ids[2])));
    own.dispose();
  });

  it("an abort keeps what was committed and stops the model at once", async () => {
    const full = await byBlocks(prompt, { maxTokens: 16 });
    const controller = new AbortController();
    const ids: number[] = [];
    let done: DoneEvent | undefined;
    const { signal } = controller;
    for await (const event of generateBlocks(model, prompt, { maxTokens: 16, stopTokenIds: [], signal })) {
      if (event.type === "text") ids.push(...event.ids);
      if (event.type === "done") done = event;
      if (ids.length === 5) controller.abort(); // one token completes block 0, then block 1
    }
    expect(ids).toEqual(full.ids.slice(0, 5));
    expect(done).toMatchObject({ finishReason: "abort", usage: { forwards: 1 + 4 } });
    const before = await byBlocks(prompt, { maxTokens: 4, signal: AbortSignal.abort() });
    expect(before.ids).toEqual([]);
    expect(before.done).toMatchObject({ finishReason: "abort", usage: { forwards: 0 } });
  });

  it("frees everything, also when the consumer leaves early", async () => {
    const before = heldTensors();
    await byBlocks(prompt, { maxTokens: 9 });
    await oneByOne(prompt, { maxTokens: 9, temperature: 1 });
    for await (const _ of generateBlocks(model, prompt, { maxTokens: 9 })) break;
    for await (const _ of generateAutoregressive(model, prompt, { maxTokens: 9 })) break;
    await expect(byBlocks([MASK], { maxTokens: 9 })).rejects.toThrow();
    expect(heldTensors()).toBe(before);
  });

  it("takes memory for what the request fills, and not for a whole context", async () => {
    const before = torch.memory().host;
    const taken: number[] = [];
    for (const maxTokens of [29, 30]) {
      for await (const { type } of generateBlocks(model, prompt, { maxTokens })) {
        if (type === "start") taken.push(torch.memory().host - before);
      }
    }
    const page = PagedKVCache.bytesPerPage(model, 32);
    // A page for each 32 tokens, and one to which padding is written.
    expect(taken).toEqual([2 * page, 3 * page]);
  });

  it("lets other work of the process go on between passes", async () => {
    let turns = 0;
    let isDone = false;
    const again = () => {
      turns++;
      if (!isDone) setImmediate(again);
    };
    setImmediate(again);
    const { done } = await byBlocks(prompt, { maxTokens: 12 });
    isDone = true;
    expect(turns).toBeGreaterThanOrEqual(done.usage.forwards - 1);
  });

  it.each<[string, number[], BlockGenerationOptions, RegExp]>([
    ["ENGINE_OPTIONS", prompt, { maxTokens: 0 }, /maxTokens/],
    ["ENGINE_OPTIONS", prompt, { temprature: 1 } as never, /temprature/],
    ["ENGINE_OPTIONS", prompt, { prefillChunk: 4 } as never, /prefillChunk: it is called maxNumBatchedTokens now/],
    ["ENGINE_OPTIONS", prompt, { commit: { rule: "statik" } } as never, /rule/],
    ["ENGINE_OPTIONS", prompt, { maskId: 48 }, /outside the vocabulary/],
    ["ENGINE_TOO_LONG", prompt, { maxTokens: 62 }, /context of 64/],
    ["ENGINE_PROMPT", [7, MASK], { maxTokens: 4 }, /prompt token 1 is the mask/],
    ["ENGINE_PROMPT", [7, 48], { maxTokens: 4 }, /prompt token 1 is 48/],
    ["ENGINE_PROMPT", [], { maxTokens: 4, shift: true }, /empty/],
  ])("%s for what cannot be done: %o %o", async (code, ids, options, message) => {
    const attempt = byBlocks(ids, options);
    await expect(attempt).rejects.toThrow(EngineError);
    await expect(attempt).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  });

  it("an empty prompt is an error token by token, and the start of a text in diffusion", async () => {
    await expect(oneByOne([], { maxTokens: 1 })).rejects.toThrow(/empty/);
    expect((await byBlocks([], { maxTokens: 6 })).ids).toHaveLength(6);
  });

  it.each([0, 1])("an error where the model's logits are NaN, at temperature %d", async (temperature) => {
    const broken = await tinyModel();
    torch.noGrad(() => broken.norm.weight.fill_(Number.NaN));
    await expect(byBlocks(prompt, { maxTokens: 4, temperature }, broken)).rejects.toMatchObject({
      code: "ENGINE_MODEL",
      message: expect.stringContaining("NaN"),
    });
    broken.dispose();
  });
});
