import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { StableDiffCoder } from "../../lib/checkpoint/index.js";
import { type Engine, EngineError, type EngineEvent, type GenerateOptions } from "../../lib/engine/index.js";
import { causalPlan } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import { collect, here, MASK, randomPrompt, reference, sharpCoder, TOKENIZER } from "./support.js";

let coder: StableDiffCoder;
let engine: Engine;
/** With text. */
let worded: StableDiffCoder;
let speaking: Engine;
beforeAll(async () => {
  coder = sharpCoder();
  engine = await here(coder, { cacheTokens: 4096 });
  worded = sharpCoder({ vocabSize: 4096, tokenizer: TOKENIZER, eosTokenId: 2 });
  speaking = await here(worded, { cacheTokens: 4096 });
});
afterAll(async () => {
  await engine.close();
  await speaking.close();
  coder.dispose();
  worded.dispose();
});

const code = (fn: () => unknown): string => {
  try {
    fn();
  } catch (error) {
    if (error instanceof EngineError) return error.code;
    throw error;
  }
  return "no error";
};

describe("how a request ends", () => {
  it("maxTokens is exact, also inside a block", async () => {
    for (const mode of ["diffusion", "autoregressive"] as const) {
      for (let maxTokens = 1; maxTokens <= 9; maxTokens++) {
        const choice = await engine.complete(randomPrompt(1, 6), { mode, maxTokens, stopTokenIds: [], blockSize: 4 });
        expect(choice.ids.length).toBe(maxTokens);
        expect(choice).toMatchObject({
          finishReason: "length",
          usage: { completionTokens: maxTokens, promptTokens: 6 },
        });
      }
    }
  });

  it("at a stop token, as the oracle does", async () => {
    for (const mode of ["diffusion", "autoregressive"] as const) {
      const options: GenerateOptions = {
        mode,
        maxTokens: 30,
        ...(mode === "diffusion" && { commit: { rule: "threshold", value: 0.5 } }),
      };
      const prompt = randomPrompt(2, 9);
      const { ids } = await engine.complete(prompt, { ...options, stopTokenIds: [] });
      const stopTokenIds = [ids[11]];
      const choice = await engine.complete(prompt, { ...options, stopTokenIds });
      expect(choice.ids).toEqual((await reference(coder, prompt, { ...options, stopTokenIds })).ids);
      expect(choice.ids).toEqual(ids.slice(0, ids.indexOf(stopTokenIds[0])));
      expect(choice).toMatchObject({ finishReason: "stop", stopReason: stopTokenIds[0] });
    }
  });

  it("at the model's end token by default; ignoreEos and a fixed canvas go on", async () => {
    const prompt = randomPrompt(4, 9);
    const eos = (await engine.complete(prompt, { maxTokens: 20, stopTokenIds: [] })).ids[7];
    const own = sharpCoder({ eosTokenId: eos });
    const ending = await here(own);
    const stopped = await ending.complete(prompt, { maxTokens: 20 });
    expect(stopped).toMatchObject({ finishReason: "stop", stopReason: eos });
    expect(stopped.ids.length).toBeLessThan(8);
    const ignored = await ending.complete(prompt, { maxTokens: 20, ignoreEos: true });
    expect(ignored.ids).toContain(eos);
    expect(ignored.ids.length).toBe(20);
    const fixed = await ending.complete(prompt, { maxTokens: 20, canvas: "fixed" });
    expect(fixed.ids).not.toContain(eos);
    expect(fixed).toMatchObject({ finishReason: "length", usage: { completionTokens: 20 } });
    await ending.close();
    own.dispose();
  });

  it("at stop strings, across tokens and blocks, streamed text never showing any of them", async () => {
    for (const mode of ["diffusion", "autoregressive"] as const) {
      const whole = await speaking.complete("def f(", { mode, maxTokens: 24, stopTokenIds: [] });
      // Cuts in the middle of tokens, over their borders, and at the end.
      for (let at = 1; at < whole.text.length - 1; at += 3) {
        for (const length of [1, 5, 17]) {
          const stop = whole.text.slice(at, at + length);
          const { events, text, ids } = await collect(speaking, "def f(", {
            mode,
            maxTokens: 24,
            stopTokenIds: [],
            stop: [stop],
          });
          expect(text).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
          expect(ids).toEqual(whole.ids.slice(0, ids.length));
          expect(events.at(-1)).toMatchObject({ type: "done", finishReason: "stop", stopReason: stop });
        }
      }
    }
  });

  it.each(["diffusion", "autoregressive"] as const)(
    "ends at a stop string that is a special token, %s",
    async (mode) => {
      // Token 6 is no part of any text, so the string can only be found by its id.
      const stop = ["<[fim-suffix]>"];
      const options = { mode, maxTokens: 8, stopTokenIds: [], blockSize: 4 };
      const free = await speaking.complete("x", options);
      const ended = await speaking.complete("x", { ...options, stop, logitBias: { 6: 100 } });
      expect(free.finishReason).toBe("length");
      expect(ended).toMatchObject({ text: "", ids: [], finishReason: "stop", stopReason: stop[0] });
      const hidden = await speaking.complete("x", { ...options, logitBias: { 6: 100 } });
      expect(hidden).toMatchObject({ text: "", finishReason: "length" });
    },
  );

  it("gives out text that only looked like a stop string", async () => {
    const whole = await speaking.complete("x", { maxTokens: 12, stopTokenIds: [] });
    const choice = await speaking.complete("x", {
      maxTokens: 12,
      stopTokenIds: [],
      stop: [`${whole.text.slice(-3)}\u0001`],
    });
    expect(choice).toMatchObject({ text: whole.text, finishReason: "length" });
  });
});

describe("what a request can ask for", () => {
  it("the logprobs of the committing pass, which are a plain softmax of the model's logits", async () => {
    const prompt = randomPrompt(5, 11);
    const B = 4;
    const { events } = await collect(engine, prompt, { maxTokens: 14, blockSize: B, stopTokenIds: [], logprobs: 5 });
    const sequence = [...prompt, ...new Array<number>(14).fill(MASK)];
    for (const event of events) {
      if (event.type !== "denoise") continue;
      const exact = blockLogprobs(coder, sequence.slice(0, event.end), B);
      for (const { position, id, logprob, topLogprobs } of event.committed) {
        expect(logprob).toBeCloseTo(exact[position][id], 4);
        const best = [...exact[position].keys()].sort((a, b) => exact[position][b] - exact[position][a]).slice(0, 5);
        expect(topLogprobs?.map((top) => top.id)).toEqual(best);
        for (const top of topLogprobs ?? []) expect(top.logprob).toBeCloseTo(exact[position][top.id], 4);
      }
      for (const { position, id } of event.committed) sequence[position] = id;
    }
    expect(sequence).not.toContain(MASK);
  });

  it("AR logprobs equal those that score() gives, and a forward with plain attention", async () => {
    const prompt = randomPrompt(6, 7);
    const choice = await engine.complete(prompt, {
      mode: "autoregressive",
      maxTokens: 9,
      stopTokenIds: [],
      logprobs: 1,
    });
    const scored = await engine.score([...prompt, ...choice.ids], { logprobs: 3 });
    const all = [...prompt, ...choice.ids];
    const exact = torch.scope(() =>
      torch.noGrad(() => {
        const ids = torch.tensor(all, { dtype: "int64" }).view([1, -1]);
        return coder.model
          .logits(coder.model.forward(ids, causalPlan(all.length)))
          .select(0, 0)
          .logSoftmax(1)
          .tolist();
      }),
    ) as number[][];
    choice.tokens.forEach(({ logprob, topLogprobs }, i) => {
      expect(logprob).toBeCloseTo(scored.logprobs[7 + i] as number, 4);
      expect(scored.topLogprobs?.[7 + i]?.[0].id).toBe(topLogprobs?.[0].id);
    });
    for (let i = 1; i < all.length; i++) expect(scored.logprobs[i]).toBeCloseTo(exact[i - 1][all[i]], 4);
    expect(scored.nll).toBeCloseTo(-exact.slice(0, -1).reduce((sum, row, i) => sum + row[all[i + 1]], 0), 3);
    expect(scored.tokens).toBe(15);
  });

  it("a diffusion bound, token by token", async () => {
    const tokens = randomPrompt(8, 40);
    const one = await engine.score(tokens, { mode: "diffusion", blockSize: 1 });
    const ar = await engine.score(tokens, { mode: "autoregressive" });
    const exact = await engine.score(tokens, { mode: "diffusion", blockSize: 4, logprobs: 2 });
    const wide = await engine.score(tokens, { mode: "diffusion", blockSize: 4, mcSamples: 16, seed: -(2n ** 62n) });
    expect(one).toMatchObject({ tokens: 39, mcSamples: 1, standardError: 0 });
    expect(ar).toMatchObject({ mode: "autoregressive", standardError: 0, mcSamples: 1 });
    expect(exact).toMatchObject({ mode: "diffusion", standardError: 0, mcSamples: 15 });
    expect(exact.logprobs).toHaveLength(40);
    expect(exact.logprobs.reduce<number>((sum, each) => sum + (each ?? 0), 0)).toBeCloseTo(-exact.nll, 9);
    expect(exact.topLogprobs?.[0]).toBeNull();
    expect(exact.topLogprobs?.[7]).toHaveLength(2);
    expect(exact.nll).not.toBeCloseTo(ar.nll, 2);
    expect(wide.standardError).toBeGreaterThan(0);
    expect(Math.abs(wide.nll - exact.nll)).toBeLessThan(5 * wide.standardError);
    const again = { mode: "diffusion", blockSize: 4, mcSamples: 16, seed: -(2n ** 62n) } as const;
    expect(await engine.score(tokens, again)).toEqual(wide);
    await expect(engine.score([...tokens, MASK], again)).rejects.toMatchObject({ code: "ENGINE_PROMPT" });
  });

  it("a seed of any 64 bits, its lowest ones included, and topP 0 as the most likely token", async () => {
    const prompt = randomPrompt(5, 6);
    const text = async (seed: number | bigint, more = {}) =>
      (await engine.complete(prompt, { maxTokens: 12, temperature: 1, seed, ...more })).ids.join(" ");
    const seeds = [0, 1, -1, 2n ** 53n, 2n ** 53n + 1n, 2n ** 63n - 1n, 2n ** 63n - 2n, -(2n ** 63n)];
    const texts = await Promise.all(seeds.map((seed) => text(seed)));
    expect(new Set(texts).size).toBe(seeds.length);
    expect(await text(2n ** 63n - 1n)).toBe(texts[5]);
    expect(await text(BigInt(1))).toBe(texts[1]);
    // Choice i draws with seed + i, also across 2^53 and around 2^64.
    const [, next] = await engine.completeChoices(prompt, {
      maxTokens: 12,
      temperature: 1,
      seed: 2n ** 63n - 1n,
      n: 2,
    });
    expect(next.ids.join(" ")).toBe(texts[7]);
    const [, beyond] = await engine.completeChoices(prompt, { maxTokens: 12, temperature: 1, seed: 2 ** 53 - 1, n: 2 });
    expect(beyond.ids.join(" ")).toBe(texts[3]);
    expect(await text(7, { topP: 0 })).toBe(await text(7, { temperature: 0 }));
    expect(await text(8, { topP: 0, mode: "autoregressive" })).toBe(await text(9, { topK: 1, mode: "autoregressive" }));
    for (const seed of [2n ** 63n, -(2n ** 63n) - 1n, 1.5, 2 ** 53]) {
      await expect(text(seed)).rejects.toMatchObject({ code: "ENGINE_OPTIONS" });
    }
  });

  it("logitBias forbids and forces tokens", async () => {
    const prompt = randomPrompt(9, 5);
    const free = await engine.complete(prompt, { maxTokens: 16, stopTokenIds: [] });
    const banned = Object.fromEntries([...new Set(free.ids)].map((id) => [id, -100]));
    const without = await engine.complete(prompt, { maxTokens: 16, stopTokenIds: [], logitBias: banned });
    expect(without.ids.filter((id) => id in banned)).toEqual([]);
    const forced = await engine.complete(prompt, { maxTokens: 6, stopTokenIds: [], logitBias: { 33: 100 } });
    expect(forced.ids).toEqual(new Array(6).fill(33));
  });

  it("penalties drive repeated tokens out", async () => {
    const prompt = randomPrompt(9, 5);
    const bias = { 33: 60, 34: 59, 35: 58, 36: 57 };
    const options = { maxTokens: 4, stopTokenIds: [], logitBias: bias, blockSize: 4 };
    const plain = await engine.complete(prompt, options);
    expect(new Set(plain.ids).size).toBe(1);
    for (const penalty of [{ presencePenalty: 2 }, { frequencyPenalty: 2 }]) {
      const spread = await engine.complete(prompt, {
        ...options,
        logitBias: { 33: 100, 34: 99.5 },
        ...penalty,
        mode: "autoregressive",
      });
      expect(new Set(spread.ids).size).toBeGreaterThan(1);
    }
    const first = await engine.complete([...prompt, 40], { mode: "autoregressive", maxTokens: 1, stopTokenIds: [] });
    const other = await engine.complete([...prompt, first.ids[0], 40], {
      ...{ mode: "autoregressive", maxTokens: 12, stopTokenIds: [], repetitionPenalty: 10 },
    });
    expect(new Set(other.ids).size).toBe(12);
  });

  it("n choices: choice i is what seed + i gives, and they share the prompt's pages", async () => {
    const prompt = randomPrompt(10, 130);
    const options = { temperature: 1, maxTokens: 12, stopTokenIds: [], seed: 40 };
    const two = { ...options, n: 2 };
    await expect(engine.complete(prompt, two)).rejects.toThrow(
      "complete: n is 2, allowed: 1; completeChoices() gives several",
    );
    const choices = await engine.completeChoices(prompt, { ...options, n: 4 });
    expect(choices.map(({ index }) => index)).toEqual([0, 1, 2, 3]);
    for (const { index, ids } of choices) {
      expect(ids).toEqual((await engine.complete(prompt, { ...options, seed: 40 + index })).ids);
    }
    expect(new Set(choices.map(({ ids }) => ids.join())).size).toBe(4);
    expect(choices.slice(1).every(({ usage }) => usage.cachedTokens === 128)).toBe(true);
  });

  it("infilling in the format of the model's training", async () => {
    const { tokenizer } = worded;
    const fim = tokenizer.fim as NonNullable<typeof tokenizer.fim>;
    const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false });
    const ids = [fim.suffix, ...encode("\n    return x"), fim.prefix, ...encode("def f("), fim.middle];
    const infilled = await speaking.complete("def f(", { suffix: "\n    return x", maxTokens: 10 });
    const plain = await speaking.complete(ids, { maxTokens: 10 });
    expect(infilled.ids).toEqual(plain.ids);
    expect(infilled.usage.promptTokens).toBe(ids.length);
    const psm = await here(worded, { fimFormat: "psm" });
    const swapped = [fim.prefix, ...encode("def f("), fim.suffix, ...encode("\n    return x"), fim.middle];
    const other = await psm.complete("def f(", { suffix: "\n    return x", maxTokens: 10 });
    expect(other.ids).toEqual((await speaking.complete(swapped, { maxTokens: 10 })).ids);
    await psm.close();
    expect(code(() => engine.generate([7, 8], { suffix: [9] }))).toBe("ENGINE_OPTIONS");
  });

  it("editing a span in place: the rest stays and is seen as far as the block goes", async () => {
    const text = randomPrompt(11, 24);
    const { events, ids } = await collect(engine, text, {
      edit: { start: 6, end: 11 },
      blockSize: 4,
      stopTokenIds: [],
    });
    expect(ids.length).toBe(5);
    expect(events.at(-1)).toMatchObject({ finishReason: "length", usage: { completionTokens: 5 } });
    // The reference: denoise position by position over whole forwards of everything up to the block's end.
    const sequence = text.map((id, i) => (i >= 6 && i < 11 ? MASK : id));
    for (const event of events) {
      if (event.type !== "denoise") continue;
      expect(event.end).toBeLessThanOrEqual(12);
      const exact = blockLogprobs(coder, sequence.slice(0, event.end), 4);
      const open = [...sequence.keys()].filter((i) => i >= event.start && i < event.end && sequence[i] === MASK);
      const sureness = open.map((i) => Math.max(...exact[i]));
      const position = open[sureness.indexOf(Math.max(...sureness))];
      expect(event.committed.map((token) => token.position)).toEqual([position]);
      expect(event.committed[0].id).toBe(exact[position].indexOf(Math.max(...exact[position])));
      sequence[position] = event.committed[0].id;
    }
    expect(sequence.slice(6, 11)).toEqual(ids);
  });

  it("masks doubtful tokens again, within its rounds, and ends", async () => {
    const prompt = randomPrompt(12, 10);
    const options: GenerateOptions = {
      maxTokens: 24,
      blockSize: 8,
      stopTokenIds: [],
      commit: { rule: "threshold", value: 0 },
    };
    const { events: before } = await collect(engine, prompt, options);
    const { events, ids } = await collect(engine, prompt, { ...options, remask: { below: 0.9, rounds: 2 } });
    expect(ids.length).toBe(24);
    const rounds = new Map<number, number>();
    for (const event of events) {
      if (event.type === "denoise" && event.remasked) rounds.set(event.block, (rounds.get(event.block) ?? 0) + 1);
    }
    expect(rounds.size).toBeGreaterThan(0);
    expect(Math.max(...rounds.values())).toBeLessThanOrEqual(2);
    const passes = (list: EngineEvent[]) => list.filter(({ type }) => type === "denoise").length;
    expect(passes(events)).toBeGreaterThan(passes(before));
    // Nothing is below zero: the same tokens, each block looked at once more.
    const { ids: same, events: checked } = await collect(engine, prompt, { ...options, remask: { below: 0 } });
    expect(same).toEqual((await reference(coder, prompt, options)).ids);
    expect(passes(checked)).toBe(2 * passes(before));
  });

  it("text events only", async () => {
    const { events, ids } = await collect(engine, randomPrompt(1, 5), {
      events: "text",
      maxTokens: 8,
      stopTokenIds: [],
    });
    expect(new Set(events.map(({ type }) => type))).toEqual(new Set(["start", "text", "done"]));
    expect(ids.length).toBe(8);
  });
});

describe("what a request must not be", () => {
  it.each([
    ["ENGINE_OPTIONS", [7], { maxTokens: 0 }],
    ["ENGINE_OPTIONS", [7], { temprature: 1 }],
    ["ENGINE_OPTIONS", [7], { stopTokenIds: [96] }],
    ["ENGINE_OPTIONS", [7], { logitBias: { 96: 1 } }],
    ["ENGINE_OPTIONS", [7], { logitBias: { a: 1 } }],
    ["ENGINE_OPTIONS", [7], { temperature: Number.NaN }],
    ["ENGINE_OPTIONS", [7], { steps: 2, commit: { rule: "static" } }],
    ["ENGINE_OPTIONS", [7, 8], { edit: { start: 1, end: 1 } }],
    ["ENGINE_OPTIONS", [7, 8], { edit: { start: 0, end: 3 } }],
    ["ENGINE_OPTIONS", "text", {}],
    ["ENGINE_PROMPT", [96], {}],
    ["ENGINE_PROMPT", [7.5], {}],
    ["ENGINE_PROMPT", [7, MASK], {}],
    ["ENGINE_PROMPT", [], { mode: "autoregressive" }],
    ["ENGINE_PROMPT", [2 ** 32 + 7], {}],
    ["ENGINE_TOO_LONG", [7], { maxTokens: 512 }],
  ] as [string, string | number[], GenerateOptions][])("%s for %j %j, at the call", (expected, prompt, options) => {
    expect(code(() => engine.generate(prompt, options))).toBe(expected);
  });

  it("ids are checked as they are given, in a suffix and in what is scored, too", async () => {
    for (const ids of [
      [7, 1.5],
      [7, 2 ** 32 + 7],
      [7, 96],
      [7, -1],
    ]) {
      await expect(engine.score(ids)).rejects.toMatchObject({
        code: "ENGINE_PROMPT",
        message: `text token 1 is ${ids[1]}, but the vocabulary has 96 tokens`,
      });
    }
    for (const prompt of ["x", [7]]) {
      expect(code(() => speaking.generate(prompt, { suffix: [7, 2 ** 32 + 7] }))).toBe("ENGINE_PROMPT");
    }
    expect(code(() => speaking.generate([4096], { suffix: "x" }))).toBe("ENGINE_PROMPT");
  });

  it("an empty prompt is fine for diffusion", async () => {
    // Positions that see nothing but masks are all alike, so which comes first is up to rounding: no comparison here.
    const choice = await engine.complete([], { maxTokens: 6, stopTokenIds: [] });
    expect(choice).toMatchObject({ finishReason: "length", usage: { promptTokens: 0, completionTokens: 6 } });
  });

  it("one whose logits are all forbidden fails alone", async () => {
    const all = Object.fromEntries(Array.from({ length: 96 }, (_, id) => [id, -100]));
    const good = engine.complete(randomPrompt(1, 20), { maxTokens: 20, stopTokenIds: [] });
    const events: EngineEvent[] = [];
    const bad = (async () => {
      for await (const event of engine.generate([7, 8], { logitBias: all })) events.push(event);
    })();
    await expect(bad).rejects.toMatchObject({ code: "ENGINE_MODEL" });
    expect(events.at(-1)).toMatchObject({ type: "done", finishReason: "error" });
    expect((await good).ids.length).toBe(20);
  });
});

/** Log-softmax of block-causal attention over a whole sequence, without the mask token, [length][vocabulary]. */
function blockLogprobs(of: StableDiffCoder, sequence: number[], blockSize: number): number[][] {
  return torch.scope(() =>
    torch.noGrad(() => {
      const n = sequence.length;
      const positions = torch.arange(n, { dtype: "int64" });
      const blocks = positions.div(blockSize, { roundingMode: "floor" });
      const mask = blocks.unsqueeze(1).ge(blocks.unsqueeze(0));
      const hidden = of.model.forward(torch.tensor(sequence, { dtype: "int64" }).view([1, n]), {
        positions,
        attend: (_, q, k, v) => {
          const [a, b, c] = [q, k, v].map((x) => x.transpose(1, 2));
          return torch.scaledDotProductAttention(a, b, c, mask, 0, false, { enableGqa: true }).transpose(1, 2);
        },
      });
      const logits = of.model.logits(hidden).select(0, 0);
      logits.narrow(1, MASK, 1).fill_(Number.NEGATIVE_INFINITY);
      return logits.to({ dtype: "float64" }).logSoftmax(1).tolist();
    }),
  ) as number[][];
}
