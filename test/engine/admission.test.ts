import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import type { StableDiffCoder } from "../../lib/checkpoint/index.js";
import type { Reservation } from "../../lib/engine/admission.js";
import { Admission } from "../../lib/engine/admission.js";
import { type Engine, EngineError, type EngineEvent, type EngineOptions } from "../../lib/engine/index.js";
import { here, randomPrompt, sharpCoder } from "./support.js";

const LIMITS = { maxQueue: 4, maxQueueTokens: 100, queueTimeout: 0, requestTimeout: 0 };
const thrown = (action: () => unknown): unknown => {
  try {
    action();
  } catch (error) {
    return error;
  }
  return undefined;
};

describe("admission", () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ["performance", "setTimeout", "clearTimeout"] }));
  afterEach(() => void vi.useRealTimers());

  it("counts what waits: choices that have begun, or never will, make room", () => {
    const admission = new Admission(LIMITS);
    const first = admission.admit({ choices: 3, promptTokens: 30, maxTokens: 0 });
    const refused = thrown(() => admission.admit({ choices: 2, promptTokens: 20, maxTokens: 0 }));
    expect(refused).toMatchObject({
      code: "ENGINE_QUEUE_FULL",
      message: "the queue is full: 3 of 4 choices wait; try again later",
      details: { limit: "requests", used: 3, allowed: 4 },
    });
    first.leaveQueue(1, 10);
    const second = admission.admit({ choices: 2, promptTokens: 20, maxTokens: 0 });
    expect(admission.stats()).toMatchObject({ waiting: 4, waitingTokens: 40 });
    second.forgo(1, 10);
    first.release();
    expect(admission.stats()).toMatchObject({ waiting: 1, waitingTokens: 10 });
    second.release();
    second.release();
    expect(admission.stats()).toMatchObject({ waiting: 0, waitingTokens: 0 });
    expect(admission.rejected).toEqual({ requests: 1, tokens: 0 });
  });

  it("counts prompt tokens", () => {
    const admission = new Admission(LIMITS);
    using _ = admission.admit({ choices: 1, promptTokens: 60, maxTokens: 0 });
    expect(thrown(() => admission.admit({ choices: 1, promptTokens: 41, maxTokens: 0 }))).toMatchObject({
      code: "ENGINE_QUEUE_FULL",
      message: "the queue is full: 60 of 100 prompt tokens wait; try again later",
      details: { limit: "tokens", used: 60, allowed: 100 },
    });
    admission.admit({ choices: 1, promptTokens: 40, maxTokens: 0 }).release();
    expect(admission.rejected).toEqual({ requests: 0, tokens: 1 });
  });

  it("takes a request that is larger than a limit when nothing waits, and then no other", () => {
    const admission = new Admission(LIMITS);
    const large = admission.admit({ choices: 9, promptTokens: 900, maxTokens: 0 });
    expect(thrown(() => admission.admit({ choices: 1, promptTokens: 1, maxTokens: 0 }))).toBeInstanceOf(EngineError);
    large.leaveQueue(9, 900);
    admission.admit({ choices: 5, promptTokens: 101, maxTokens: 0 });
  });

  it("ends a wait, unless something of the request has begun, and the request as a whole", () => {
    const admission = new Admission({ ...LIMITS, queueTimeout: 2, requestTimeout: 10 });
    const [waits, begins, over] = [1, 2, 3].map((i) => admission.admit({ choices: 1, promptTokens: i, maxTokens: 0 }));
    begins.begin();
    over.release();
    const heard: unknown[] = [];
    waits.onExpire((error) => heard.push([error, waits.signal.aborted]));
    vi.advanceTimersByTime(1999);
    expect(waits.signal.aborted).toBe(false);
    vi.advanceTimersByTime(1);
    expect(waits.signal.reason).toMatchObject({
      code: "ENGINE_TIMEOUT",
      message: "the request waited 2 s for its turn; try again later",
      details: { limit: "queue" },
    });
    expect(heard).toEqual([[waits.signal.reason, false]]);
    expect(thrown(() => waits.claim(1))).toBe(waits.signal.reason);
    expect(admission.stats()).toMatchObject({ waiting: 1, waitingTokens: 2 }); // `begins` has a choice that waits
    vi.advanceTimersByTime(7999);
    expect(begins.signal.aborted).toBe(false);
    vi.advanceTimersByTime(1);
    expect(begins.signal.reason).toMatchObject({
      code: "ENGINE_TIMEOUT",
      message: "the request took longer than 10 s",
      details: { limit: "request" },
    });
    expect(over.signal.aborted).toBe(false);
    expect(vi.getTimerCount()).toBe(0);
  });

  it("recommends the time in which half of what is ahead is generated, at the best pace of the last minute", () => {
    const admission = new Admission(LIMITS);
    expect(admission.stats()).toMatchObject({ outstandingTokens: 0, tokensPerSecond: 0, retryAfter: 1 });
    const request = admission.admit({ choices: 1, promptTokens: 1, maxTokens: 1000 });
    expect(admission.stats()).toMatchObject({ outstandingTokens: 1000, tokensPerSecond: 0, retryAfter: 1 });
    request.generated(100);
    vi.advanceTimersByTime(1000);
    request.generated(50);
    vi.advanceTimersByTime(1000);
    expect(admission.stats()).toMatchObject({ outstandingTokens: 850, tokensPerSecond: 100, retryAfter: 5 });
    const more = admission.admit({ choices: 1, promptTokens: 1, maxTokens: 1_000_000 });
    expect(admission.stats().retryAfter).toBe(30);
    more.release();
    request.generated(5000); // no more than it asked for is outstanding
    request.release();
    expect(admission.stats()).toMatchObject({ outstandingTokens: 0, retryAfter: 1 });
    vi.advanceTimersByTime(61_000);
    expect(admission.stats().tokensPerSecond).toBe(0);
  });
});

describe("an engine's queue", () => {
  let coder: StableDiffCoder;
  beforeAll(() => {
    coder = sharpCoder();
  });
  afterAll(() => coder.dispose());

  const long = { maxTokens: 400, stopTokenIds: [] as number[] };
  /**
   * An engine whose one place is taken, for far longer than a test takes, until `leave` is called. What takes it is one
   * request of 128 choices, of which those that have not begun are taken out of the count.
   */
  async function busy(options: EngineOptions = {}): Promise<{ engine: Engine; leave: () => Promise<void> }> {
    const engine = await here(coder, { maxNumSeqs: 1, ...options });
    const controller = new AbortController();
    let began = () => {};
    const started = new Promise<void>((resolve) => {
      began = resolve;
    });
    const running = (async () => {
      using reservation = engine.reserve({ choices: 128, promptTokens: 128 * 9 });
      const request = { signal: controller.signal, reservation };
      for await (const { type } of engine.generate(randomPrompt(1, 9), { ...long, n: 128 }, request)) {
        if (type !== "start") continue;
        reservation.leaveQueue(127, 127 * 9);
        began();
      }
    })();
    await started;
    const leave = async () => {
      controller.abort();
      await running;
    };
    return { engine, leave };
  }

  it("does not count what runs", async () => {
    const { engine, leave } = await busy({ maxQueue: 1 });
    expect(engine.stats()).toMatchObject({ running: 1, admission: { waiting: 0 } });
    const waiting = engine.complete([7], { maxTokens: 2, stopTokenIds: [] });
    expect(engine.stats().admission).toMatchObject({ waiting: 1, waitingTokens: 1 });
    expect(() => engine.generate([7])).toThrowError(expect.objectContaining({ code: "ENGINE_QUEUE_FULL" }));
    await leave();
    expect((await waiting).ids.length).toBe(2);
    expect(engine.stats()).toMatchObject({ admission: { waiting: 0, waitingTokens: 0, outstandingTokens: 0 } });
    await engine.close();
  });

  it("has room again when a request that waits is left, by its signal or its reader", async () => {
    const { engine, leave } = await busy({ maxQueue: 1 });
    const controller = new AbortController();
    const aborted = engine.complete([7], long, { signal: controller.signal });
    controller.abort();
    expect(engine.stats().admission.waiting).toBe(0);
    const left = engine.generate([7], long);
    await left.return?.();
    expect(engine.stats().admission.waiting).toBe(0);
    const scored = new AbortController();
    const score = engine.score(randomPrompt(1, 30), {}, { signal: scored.signal });
    expect(engine.stats().admission).toMatchObject({ waiting: 1, waitingTokens: 30 });
    scored.abort(new Error("left"));
    await expect(score).rejects.toThrow("left");
    expect(engine.stats().admission).toMatchObject({ waiting: 0, waitingTokens: 0 });
    expect((await aborted).finishReason).toBe("abort");
    await leave();
    await engine.close();
  });

  it("ends the wait of a request after queueTimeout, with an error, and counts it as one", async () => {
    const { engine, leave } = await busy({ queueTimeout: 0.2 });
    const events: EngineEvent[] = [];
    const wait = async () => {
      for await (const event of engine.generate(randomPrompt(2, 9), long)) events.push(event);
    };
    await expect(wait()).rejects.toMatchObject({ code: "ENGINE_TIMEOUT", details: { limit: "queue" } });
    expect(events).toMatchObject([{ type: "done", finishReason: "error", usage: { promptTokens: 9 } }]);
    // What had begun goes on.
    expect(engine.stats()).toMatchObject({
      running: 1,
      admission: { waiting: 0 },
      counters: { finished: { error: 1, abort: 0 } },
    });
    await leave();
    await engine.close();
  });

  it("does not count the wait of choices whose request has begun, with a choice or a score", async () => {
    await using engine = await here(coder, { maxNumSeqs: 1, queueTimeout: 2 });
    const controller = new AbortController();
    const { signal } = controller;
    const choices = engine.completeChoices(randomPrompt(1, 9), { ...long, n: 128 }, { signal });
    using reservation = engine.reserve({ choices: 1, promptTokens: 9 });
    await engine.score(randomPrompt(2, 9), {}, { reservation });
    const scored = engine.complete(randomPrompt(2, 9), long, { signal, reservation });
    await new Promise((resolve) => setTimeout(resolve, 2500));
    expect(engine.stats().admission.waiting).toBeGreaterThan(0);
    controller.abort();
    expect((await choices).at(-1)?.finishReason).toBe("abort");
    expect((await scored).finishReason).toBe("abort");
  });

  it("ends a score that takes longer than requestTimeout", async () => {
    await using engine = await here(coder, { requestTimeout: 0.1 });
    const settings = { mode: "diffusion", mcSamples: 1024 } as const;
    const scores = Array.from({ length: 40 }, (_, i) => engine.score(randomPrompt(i, 400), settings));
    const ends = await Promise.allSettled(scores);
    expect(ends.at(-1)).toMatchObject({
      status: "rejected",
      reason: { code: "ENGINE_TIMEOUT", details: { limit: "request" } },
    });
    expect(engine.stats().admission).toMatchObject({ waiting: 0, waitingTokens: 0 });
  });

  describe("with a reservation", () => {
    it("takes several prompts and a score as a whole", async () => {
      const { engine, leave } = await busy({ maxQueue: 4, queueTimeout: 60 });
      const reservation = engine.reserve({ choices: 4, promptTokens: 44, maxTokens: 16 });
      expect(engine.stats().admission).toMatchObject({ waiting: 4, waitingTokens: 44, outstandingTokens: 16 });
      expect(() => engine.reserve({ choices: 1, promptTokens: 1 })).toThrowError(
        expect.objectContaining({ code: "ENGINE_QUEUE_FULL" }),
      );
      const score = engine.score(randomPrompt(3, 11), {}, { reservation });
      const options = { maxTokens: 4, stopTokenIds: [], n: 2 };
      const texts = [3, 4].map((seed) => engine.completeChoices(randomPrompt(seed, 11), options, { reservation }));
      expect(engine.stats().admission).toMatchObject({ waiting: 4, waitingTokens: 44 });
      expect((await score).tokens).toBe(10);
      await leave();
      for (const choices of await Promise.all(texts)) expect(choices.map(({ ids }) => ids.length)).toEqual([4, 4]);
      expect(engine.stats().admission).toMatchObject({ waiting: 0, waitingTokens: 0, outstandingTokens: 0 });
      expect(engine.stats().admission.tokensPerSecond).toBeGreaterThanOrEqual(0);
      reservation.release();
      await engine.close();
    });

    it("ends all its calls at once when its time is over, and the reservation's signal says why", async () => {
      const { engine, leave } = await busy({ queueTimeout: 0.2 });
      using reservation = engine.reserve({ choices: 3, promptTokens: 22 });
      const calls = [3, 4].map((seed) => engine.complete(randomPrompt(seed, 11), long, { reservation }));
      const ends = await Promise.allSettled(calls);
      const timeout = { code: "ENGINE_TIMEOUT", details: { limit: "queue" } };
      for (const end of ends) expect(end).toMatchObject({ status: "rejected", reason: timeout });
      expect(reservation.signal.reason).toMatchObject(timeout);
      expect(() => engine.generate([7], {}, { reservation })).toThrowError(expect.objectContaining(timeout));
      expect(engine.stats().admission.waiting).toBe(0);
      await leave();
      await engine.close();
    });

    it("is refused to more choices than it has, when it was released, and to another engine", async () => {
      await using engine = await here(coder);
      await using other = await here(coder);
      const wrong = (reservation: Reservation, n: number, given = engine) =>
        expect(() => given.generate([7], { n }, { reservation })).toThrowError(
          expect.objectContaining({ code: "ENGINE_OPTIONS", message: expect.stringContaining("reserv") }),
        );
      const reservation = engine.reserve({ choices: 2, promptTokens: 2 });
      wrong(reservation, 1, other);
      wrong(reservation, 3);
      reservation.forgo(1, 1);
      wrong(reservation, 2);
      expect((await engine.complete([7], { maxTokens: 2, stopTokenIds: [] }, { reservation })).ids.length).toBe(2);
      reservation.release();
      wrong(reservation, 1);
      expect(() => engine.reserve({ choices: 0, promptTokens: 1 })).toThrowError(
        expect.objectContaining({ code: "ENGINE_OPTIONS", message: expect.stringContaining("choices") }),
      );
      await engine.close();
      expect(() => engine.reserve({ choices: 1, promptTokens: 1 })).toThrowError(
        expect.objectContaining({ code: "ENGINE_CLOSED" }),
      );
    });
  });
});
