import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { StableDiffCoder } from "../../lib/checkpoint/index.js";
import { Engine, EngineError, type EngineEvent } from "../../lib/engine/index.js";
import * as torch from "../../lib/torch/index.js";
import { heldTensors } from "../torch/held-tensors.js";
import { collect, here, randomPrompt, sharpCoder, TOKENIZER } from "./support.js";

let coder: StableDiffCoder;
let folder: string;
beforeAll(async () => {
  coder = sharpCoder();
  folder = mkdtempSync(join(tmpdir(), "diffcoder-engine-"));
  const saved = sharpCoder({ vocabSize: 4096, tokenizer: TOKENIZER });
  await saved.savePretrained(folder);
  saved.dispose();
});
afterAll(() => {
  coder.dispose();
  rmSync(folder, { recursive: true, force: true });
});

const long = { maxTokens: 400, stopTokenIds: [] as number[] };

describe("cancellation", () => {
  it("by signal ends with what was decoded; by leaving the loop at once; pages are free", async () => {
    await using engine = await here(coder);
    const controller = new AbortController();
    const events: EngineEvent[] = [];
    for await (const event of engine.generate(randomPrompt(1, 9), long, { signal: controller.signal })) {
      events.push(event);
      if (event.type === "text" && events.length > 20) controller.abort();
    }
    expect(events.at(-1)).toMatchObject({ type: "done", finishReason: "abort" });
    for await (const event of engine.generate(randomPrompt(2, 9), long)) if (event.type === "text") break;
    await new Promise((resolve) => setImmediate(resolve));
    expect(engine.stats()).toMatchObject({ running: 0, waiting: 0, waitingTokens: 0, pages: { used: 0 } });
    const before = AbortSignal.abort();
    const choice = await engine.complete([7], long, { signal: before });
    expect(choice).toMatchObject({ finishReason: "abort", ids: [] });
  });

  it("2,000 requests, cancelled at random, leak neither page nor tensor", async () => {
    const engine = await here(coder, { cacheTokens: 2048, pageSize: 16, maxNumSeqs: 24, maxQueue: 4000 });
    await engine.complete([7, 8], { maxTokens: 4 });
    const tensors = heldTensors();
    const random = new torch.Philox(5);
    const ends = { stop: 0, length: 0, abort: 0, error: 0 };
    const run = async (i: number): Promise<void> => {
      const controller = new AbortController();
      const leaveAfter = random.below(3) === 0 ? 1 + random.below(30) : Number.POSITIVE_INFINITY;
      const leaves = random.below(2) === 0;
      let seen = 0;
      const options = {
        maxTokens: 1 + random.below(16),
        n: 1 + (i % 3 === 0 ? 1 : 0),
        temperature: i % 2,
        seed: i,
        stopTokenIds: [30],
      };
      for await (const event of engine.generate(randomPrompt(i % 37, 1 + random.below(60)), options, {
        signal: controller.signal,
      })) {
        if (event.type === "done") ends[event.finishReason]++;
        if (++seen < leaveAfter) continue;
        if (leaves) break;
        controller.abort();
      }
    };
    for (let from = 0; from < 2000; from += 500)
      await Promise.all(Array.from({ length: 500 }, (_, i) => run(from + i)));
    await new Promise((resolve) => setTimeout(resolve, 20));
    const { pages, running, waiting, waitingTokens, counters } = engine.stats();
    expect({ running, waiting, waitingTokens, used: pages.used }).toEqual({
      running: 0,
      waiting: 0,
      waitingTokens: 0,
      used: 0,
    });
    expect(pages.cached + pages.free).toBe(pages.total);
    expect(heldTensors()).toBe(tensors);
    expect(counters.requests).toBe(2001);
    expect(ends.abort).toBeGreaterThan(50);
    expect(ends.error).toBe(0);
    await engine.close();
  });
});

describe("limits", () => {
  it("of requests and tokens are told at the call, and hold for what waits", async () => {
    await using engine = await here(coder, { maxQueue: 3, maxNumSeqs: 1, maxQueueTokens: 50 });
    const first = engine.complete(randomPrompt(1, 40), { maxTokens: 8, stopTokenIds: [] });
    expect(() => engine.generate(randomPrompt(2, 40), {})).toThrowError(
      expect.objectContaining({ code: "ENGINE_QUEUE_FULL", details: { limit: "tokens", used: 40, allowed: 50 } }),
    );
    expect(() => engine.generate([7], { n: 3 })).toThrowError(
      expect.objectContaining({ code: "ENGINE_QUEUE_FULL", details: { limit: "requests", used: 1, allowed: 3 } }),
    );
    await first;
    expect((await engine.completeChoices([7], { n: 3, maxTokens: 2, stopTokenIds: [] })).length).toBe(3);
    expect(engine.stats().counters.rejected).toEqual({ requests: 1, tokens: 1 });
  });

  it("of time altogether", async () => {
    await using engine = await here(coder, { maxNumSeqs: 1, requestTimeout: 0.3 });
    const first = engine.completeChoices(randomPrompt(1, 9), { ...long, maxTokens: 500, n: 128 });
    await expect(first).rejects.toMatchObject({
      code: "ENGINE_TIMEOUT",
      message: expect.stringContaining("took longer"),
      details: { limit: "request" },
    });
    expect(engine.stats()).toMatchObject({ running: 0, waiting: 0, pages: { used: 0 } });
  });

  it("higher priority leaves the queue first", async () => {
    await using engine = await here(coder, { maxNumSeqs: 1 });
    const order: number[] = [];
    await Promise.all(
      [0, 0, 5, -1].map(async (priority, i) => {
        await engine.complete([7, 8], { maxTokens: 4, stopTokenIds: [], priority });
        order.push(i);
      }),
    );
    expect(order).toEqual([2, 0, 1, 3]);
  });
});

describe("the engine's clock", () => {
  it("accounts for every moment once: passes, what is around them, rest", async () => {
    await using engine = await here(coder);
    const sum = () => Object.values(engine.stats().seconds).reduce((total, each) => total + each, 0);
    const read = () => {
      const began = performance.now();
      const seconds = sum();
      return { began, seconds, ended: performance.now() };
    };
    const before = read();
    const { idle } = engine.stats().seconds;
    await engine.complete([7, 8], long);
    const { model, other } = engine.stats().seconds;
    expect(model).toBeGreaterThan(0);
    expect(other).toBeGreaterThan(0);
    await new Promise((resolve) => setTimeout(resolve, 20));
    const after = read();
    expect(engine.stats().seconds.idle - idle).toBeGreaterThan(0.015);
    expect(engine.stats().seconds.model).toBe(model);
    const grown = 1000 * (after.seconds - before.seconds);
    expect(grown).toBeGreaterThanOrEqual(after.began - before.ended - 1e-6);
    expect(grown).toBeLessThanOrEqual(after.ended - before.began + 1e-6);
  });
});

describe("options of an engine", () => {
  it("that contradict the model or each other are refused", async () => {
    await expect(here(coder, { maskId: 96 })).rejects.toMatchObject({
      code: "ENGINE_OPTIONS",
      message: "maskId: 96 is outside the vocabulary of 96",
    });
    await expect(here(coder, { cacheTokens: 64, cacheBytes: 2 ** 20 })).rejects.toMatchObject({
      code: "ENGINE_OPTIONS",
      message: expect.stringContaining("cacheTokens and cacheBytes exclude each other"),
    });
  });
});

describe("closing", () => {
  it("drains what runs, refuses what is new", async () => {
    const engine = await here(coder);
    const running = engine.complete(randomPrompt(1, 9), { maxTokens: 40, stopTokenIds: [] });
    const closed = engine.close({ drain: 30 });
    expect(() => engine.generate([7])).toThrowError(expect.objectContaining({ code: "ENGINE_CLOSED" }));
    expect((await running).ids.length).toBe(40);
    await closed;
    expect(engine.stats().state).toBe("closed");
  });

  it("ends what outlasts the drain", async () => {
    const engine = await here(coder);
    const running = engine.complete(randomPrompt(1, 9), { ...long, maxTokens: 500 });
    const closed = engine.close({ drain: 0.02 });
    await expect(running).rejects.toMatchObject({ code: "ENGINE_CLOSED" });
    await closed;
  });
});

describe.each(["thread", "process"] as const)("in a worker: %s", (worker) => {
  it("gives what it gives here, while this thread stays free", async () => {
    const engine = await Engine.create({ model: folder, worker });
    const local = await Engine.create({ model: folder, worker: "none" });
    const options = { maxTokens: 24, temperature: 0.7, seed: 3, n: 2, logprobs: 2 };
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    const [a, b] = await Promise.all([collect(engine, "def f(", options), collect(local, "def f(", options)]);
    clearInterval(timer);
    expect(a.text).toBe(b.text);
    const withoutTimes = (events: EngineEvent[]) => events.map((event) => ({ ...event, timings: undefined }));
    for (const index of [0, 1]) {
      const of = (events: EngineEvent[]) => withoutTimes(events.filter((event) => event.index === index));
      expect(of(a.events)).toEqual(of(b.events));
    }
    expect(turns).toBeGreaterThan(0);
    expect(engine.model.hasTokenizer).toBe(true);
    expect(await engine.score("def f(x):")).toEqual(await local.score("def f(x):"));
    expect(engine.stats()).toMatchObject({ state: "ready", running: 0, counters: { requests: 2, scores: 1 } });
    await Promise.all([engine.close(), local.close()]);
  });
});

describe("a process that does nothing", () => {
  it("keeps no place of a request that was left or aborted, and time limits end what waits", async () => {
    const options = { worker: "process", hangTimeout: 0, queueTimeout: 0.5 } as const;
    const engine = await Engine.create({ model: folder, ...options });
    process.kill(engine.workerPid as number, "SIGSTOP");
    const controller = new AbortController();
    const left = engine.generate("x", long);
    const aborted = engine.completeChoices("x", { ...long, n: 3 }, { signal: controller.signal });
    expect(engine.stats().admission.waiting).toBe(4);
    controller.abort();
    expect(engine.stats().admission.waiting).toBe(1);
    await left.return?.();
    expect(engine.stats().admission).toMatchObject({ waiting: 0, waitingTokens: 0 });
    const timeout = { status: "rejected", reason: { code: "ENGINE_TIMEOUT", details: { limit: "queue" } } };
    const ends = await Promise.allSettled([engine.complete("x", long), engine.score("def f(x):")]);
    expect(ends).toMatchObject([timeout, timeout]);
    expect(engine.stats()).toMatchObject({ state: "ready", admission: { waiting: 0, waitingTokens: 0 } });
    process.kill(engine.workerPid as number, "SIGCONT");
    expect((await aborted).map(({ finishReason }) => finishReason)).toEqual(["abort", "abort", "abort"]);
    expect((await engine.complete("x", { maxTokens: 5, stopTokenIds: [] })).ids.length).toBe(5);
    const { admission, counters } = engine.stats();
    expect(admission).toMatchObject({ waiting: 0, waitingTokens: 0, outstandingTokens: 0 });
    expect(counters.finished).toMatchObject({ abort: 4, error: 2 });
    await engine.close();
  });
});

describe("a worker that dies", () => {
  it("gives its requests an error and is started again", async () => {
    const engine = await Engine.create({ model: folder, worker: "process" });
    const events: EngineEvent[] = [];
    const doomed = (async () => {
      for await (const event of engine.generate("x", long)) {
        events.push(event);
        if (events.length === 3) process.kill(engine.workerPid as number, "SIGKILL");
      }
    })();
    const scored = engine.score("y").catch((error: unknown) => error);
    await expect(doomed).rejects.toBeInstanceOf(EngineError);
    await expect(doomed).rejects.toMatchObject({ code: "ENGINE_WORKER", message: expect.stringContaining("SIGKILL") });
    expect(events.at(-1)).toMatchObject({ type: "done", finishReason: "error" });
    await scored;
    const choice = await engine.complete("x", { maxTokens: 5, stopTokenIds: [] });
    expect(choice.ids.length).toBe(5);
    expect(engine.stats().counters.workerRestarts).toBe(1);
    await engine.close();
  });

  it("is given up when it cannot load any more", async () => {
    await expect(Engine.create({ model: join(folder, "nowhere") })).rejects.toMatchObject({ code: "ENGINE_MODEL" });
    await expect(Engine.create({ model: join(folder, "nowhere"), worker: "process" })).rejects.toMatchObject({
      code: "ENGINE_MODEL",
    });
    await expect(Engine.create({ model: coder, worker: "thread" })).rejects.toMatchObject({ code: "ENGINE_OPTIONS" });
  });
});
