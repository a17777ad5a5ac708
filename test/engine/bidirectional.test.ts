import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { CommittedToken } from "../../lib/engine/index.js";
import {
  type BidirectionalGenerationOptions,
  confidenceThreshold,
  type EngineEvent,
  generateBidirectional,
} from "../../lib/index.js";
import type { Decoder } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import { MASK, readJson, type SamplerCase, tinyModel } from "../diffusion/fixture.js";
import { heldTensors } from "../torch/held-tensors.js";
import { sharpCoder, TOKENIZER } from "./support.js";

let model: Decoder;
beforeAll(async () => {
  model = await tinyModel();
});
afterAll(() => model.dispose());

async function collect(stream: AsyncIterable<EngineEvent>) {
  const events: EngineEvent[] = [];
  for await (const event of stream) events.push(event);
  const idsOf = (index: number) =>
    events.flatMap((event) => (event.type === "text" && event.index === index ? event.ids : []));
  const done = events.at(-1);
  if (done?.type !== "done") throw new Error("the last event is not done");
  const positions = (committed: CommittedToken[]) => committed.map(({ position }) => position);
  const commits = events.flatMap((event) => (event.type === "denoise" ? [positions(event.committed)] : []));
  return { events, ids: idsOf(0), idsOf, commits, done };
}

const decode = (prompt: ArrayLike<number>, options: BidirectionalGenerationOptions) =>
  collect(generateBidirectional(model, prompt, { stopTokenIds: [], ...options }));

const cases = readJson<SamplerCase[]>("bidirectional-sampler").map((c) => ({ ...c, name: JSON.stringify(c.size) }));

describe("the whole canvas in view, against transformers", () => {
  it.each(cases)("B $name: the same tokens, committed in the same order", async (c) => {
    const commit = c.threshold === undefined ? undefined : confidenceThreshold(c.threshold);
    const options = { maxTokens: c.maxTokens, blockSize: c.size, shift: c.shift, steps: c.steps, commit };
    const { ids, commits, done } = await decode(c.prompt, options);
    expect(ids).toEqual(c.tokens);
    expect(commits).toEqual(c.commits);
    expect(done).toMatchObject({ finishReason: "length", usage: { forwards: c.commits.length, cachedTokens: 0 } });
  });

  it("the masks after a block matter: a longer canvas gives other tokens", async () => {
    const prompt = [7, 8, 9];
    const [short, long] = await Promise.all([8, 30].map((maxTokens) => decode(prompt, { maxTokens, blockSize: 1 })));
    expect(long.ids.slice(0, 8)).not.toEqual(short.ids);
  });
});

describe("options and events", () => {
  const prompt = [7, 8, 9, 10, 11];

  it("begin with start and end with done; a stop token ends the text", async () => {
    const { events, ids } = await decode(prompt, { maxTokens: 12 });
    expect(events[0]).toEqual({ type: "start", index: 0, promptTokens: 5, cachedTokens: 0 });
    expect(ids).toHaveLength(12);
    const stop = ids[4];
    const stopped = await decode(prompt, { maxTokens: 12, stopTokenIds: [stop] });
    expect(stopped.done).toMatchObject({ finishReason: "stop", stopReason: stop });
    expect(stopped.ids).toEqual(ids.slice(0, ids.indexOf(stop)));
  });

  it("a seed gives its tokens; n choices are those of the seeds after the first", async () => {
    const options = { maxTokens: 12, blockSize: 4, temperature: 1 };
    const together = await decode(prompt, { ...options, seed: 5, n: 3 });
    const alone = await Promise.all([5, 6, 7].map((seed) => decode(prompt, { ...options, seed })));
    expect([0, 1, 2].map(together.idsOf)).toEqual(alone.map(({ ids }) => ids));
    expect(new Set(alone.map(({ ids }) => ids.join())).size).toBe(3);
  });

  it("edit fills a span in place and sees what follows it", async () => {
    const text = Array.from({ length: 20 }, (_, i) => 6 + ((i * 7) % 40));
    const fill = (given: number[]) => decode(given, { edit: { start: 6, end: 10 }, blockSize: 2 });
    const { ids, commits } = await fill(text);
    expect(ids).toHaveLength(4);
    expect(commits.flat().sort((a, b) => a - b)).toEqual([6, 7, 8, 9]);
    const other = await fill(text.map((id, i) => (i >= 14 ? 6 + ((id + 11) % 40) : id)));
    const first = ({ events }: Awaited<ReturnType<typeof fill>>) => events.find(({ type }) => type === "denoise");
    expect(first(other)).not.toEqual(first({ events: (await fill(text)).events } as Awaited<ReturnType<typeof fill>>));
  });

  it("text goes in and comes out", async () => {
    using coder = sharpCoder({ vocabSize: 4096, tokenizer: TOKENIZER, eosTokenId: 2 });
    const { events, ids } = await collect(generateBidirectional(coder, "def f(", { maxTokens: 8, stopTokenIds: [] }));
    const text = events.map((event) => (event.type === "text" ? event.text : "")).join("");
    expect(text).toBe(coder.tokenizer.decode(ids));
  });
});

describe("ends and errors", () => {
  const prompt = [7, 8, 9];

  it("an abort keeps what was committed", async () => {
    const full = await decode(prompt, { maxTokens: 16, blockSize: 4 });
    const controller = new AbortController();
    const ids: number[] = [];
    let last: EngineEvent | undefined;
    const options = { maxTokens: 16, blockSize: 4, stopTokenIds: [], signal: controller.signal };
    for await (const event of generateBidirectional(model, prompt, options)) {
      if (event.type === "text") ids.push(...event.ids);
      if (ids.length >= 4) controller.abort();
      last = event;
    }
    expect(ids).toEqual(full.ids.slice(0, ids.length));
    expect(last).toMatchObject({ type: "done", finishReason: "abort" });
    expect(ids.length).toBeLessThan(16);
  });

  it("frees everything, also when the consumer leaves early", async () => {
    const before = heldTensors();
    await decode(prompt, { maxTokens: 6 });
    for await (const { type } of generateBidirectional(model, prompt, { maxTokens: 6 })) if (type === "denoise") break;
    expect(heldTensors()).toBe(before);
  });

  it.each<[string, number[], BidirectionalGenerationOptions, RegExp]>([
    ["ENGINE_OPTIONS", prompt, { suffix: [7] } as never, /suffix/],
    ["ENGINE_OPTIONS", prompt, { maskId: 48 }, /outside the vocabulary/],
    ["ENGINE_TOO_LONG", prompt, { maxTokens: 62 }, /context of 64/],
    ["ENGINE_PROMPT", [7, MASK], { maxTokens: 4 }, /mask/],
    ["ENGINE_PROMPT", [], { maxTokens: 4, shift: true }, /empty/],
    ["ENGINE_OPTIONS", prompt, { maxTokens: 4, commit: { name: "none", choose: () => [] } }, /at least one/],
  ])("%s for what cannot be done: %o %o", async (code, ids, options, message) => {
    await expect(decode(ids, options)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  });

  it("an error where the model's logits are NaN", async () => {
    const broken = await tinyModel();
    torch.noGrad(() => broken.norm.weight.fill_(Number.NaN));
    const events: EngineEvent[] = [];
    const run = async () => {
      for await (const event of generateBidirectional(broken, prompt, { maxTokens: 4 })) events.push(event);
    };
    await expect(run()).rejects.toMatchObject({ code: "ENGINE_MODEL" });
    expect(events.at(-1)).toMatchObject({ type: "done", finishReason: "error" });
    broken.dispose();
  });
});
