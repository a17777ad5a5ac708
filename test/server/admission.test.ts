import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { Engine, type EngineOptions } from "../../lib/engine/index.js";
import { smallCheckpoint } from "../cli/support.js";
import { chunksOf, json, type Started, start, until } from "./support.js";

const folder = mkdtempSync(join(tmpdir(), "diffcoder-admission-"));
beforeAll(() => smallCheckpoint(folder));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/**
 * The queue and the time limits are the engine's. Its process is stopped here, so that what was given to it waits, or
 * stands still, for as long as a test wants; the limits hold nevertheless.
 */
class Stopped {
  readonly engine: Engine;
  readonly served: Started;

  private constructor(engine: Engine, served: Started) {
    this.engine = engine;
    this.served = served;
  }

  static async create(limits: EngineOptions): Promise<Stopped> {
    const engine = await Engine.create({ model: folder, worker: "process", hangTimeout: 0, passTimeout: 0, ...limits });
    return new Stopped(engine, await start(engine));
  }

  stop(): void {
    process.kill(this.engine.workerPid as number, "SIGSTOP");
  }

  go(): void {
    process.kill(this.engine.workerPid as number, "SIGCONT");
  }

  get waiting(): number {
    return this.engine.stats().admission.waiting;
  }

  send(body: object, init?: RequestInit): Promise<Response> {
    return this.served.post("/v1/completions", { prompt: "x", max_tokens: 4, ...body }, init);
  }

  async metric(name: string): Promise<number> {
    const text = await (await fetch(`${this.served.url}/metrics`)).text();
    const line = text.split("\n").find((each) => each.startsWith(`diffcoder:${name}`));
    return Number(line?.split(" ").at(-1));
  }

  async close(): Promise<void> {
    this.go();
    await this.served[Symbol.asyncDispose]();
    await this.engine.close();
  }
}

describe("a full queue of an engine in its process", () => {
  let stopped: Stopped;
  beforeAll(async () => {
    stopped = await Stopped.create({ maxQueue: 2, maxQueueTokens: 20 });
  });
  beforeEach(() => stopped.stop());
  afterAll(() => stopped.close());

  it("is answered with 503, for a whole answer and a stream", async () => {
    const taken = [stopped.send({}), stopped.send({ stream: true })];
    await until(() => stopped.waiting === 2, "two that wait");
    for (const stream of [false, true]) {
      const refused = await stopped.send({ stream });
      expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "1"]);
      expect((await json(refused)).error).toEqual({
        message: "the queue is full: 2 of 2 choices wait; try again later",
        type: "overloaded_error",
        param: null,
        code: "queue_full",
      });
    }
    expect(await stopped.metric('admission_rejections_total{reason="queue_full"')).toBe(2);
    expect(await stopped.metric("num_requests_waiting")).toBe(2);
    stopped.go();
    const [whole, stream] = await Promise.all(taken);
    expect((await json(whole)).usage.completion_tokens).toBe(4);
    expect((await chunksOf(stream)).at(-1).choices[0].finish_reason).toBe("length");
    expect(stopped.engine.stats().admission).toMatchObject({ waiting: 0, waitingTokens: 0, outstandingTokens: 0 });
  });

  it("counts prompt tokens", async () => {
    const prompt = Array.from({ length: 15 }, () => 7);
    const taken = stopped.send({ prompt });
    await until(() => stopped.waiting === 1, "one that waits");
    const refused = await stopped.send({ prompt });
    expect([refused.status, (await json(refused)).error]).toEqual([
      503,
      {
        message: "the queue is full: 15 of 20 prompt tokens wait; try again later",
        type: "overloaded_error",
        param: null,
        code: "queue_tokens_full",
      },
    ]);
    expect(await stopped.metric('admission_rejections_total{reason="queue_tokens_full"')).toBe(1);
    stopped.go();
    expect((await taken).status).toBe(200);
  });

  it("takes the prompts of a request together, or none of them", async () => {
    const taken = stopped.send({});
    await until(() => stopped.waiting === 1, "one that waits");
    const refused = await stopped.send({ prompt: ["a", "b"] });
    expect((await json(refused)).error.code).toBe("queue_full");
    expect(stopped.waiting).toBe(1);
    stopped.go();
    expect((await taken).status).toBe(200);
    // Larger than the queue, and nothing waits.
    const large = await json(stopped.send({ prompt: ["a", "b", "c"] }));
    expect(large.choices).toHaveLength(3);
    expect(stopped.waiting).toBe(0);
  });

  it("has the place again of a client that leaves, though the engine's process cannot hear of it", async () => {
    const controller = new AbortController();
    const left = stopped.send({ prompt: ["a", "b"] }, { signal: controller.signal });
    await until(() => stopped.waiting === 2, "two that wait");
    controller.abort();
    await expect(left).rejects.toThrow();
    await until(() => stopped.waiting === 0, "the place to be free");
    const next = stopped.send({});
    await until(() => stopped.waiting === 1, "the next to be taken");
    stopped.go();
    expect((await next).status).toBe(200);
  });

  it("counts the choices of a request whose prompt is scored, or only sent back", async () => {
    const scored = stopped.send({ echo: true, logprobs: 0, n: 2, max_tokens: 2 });
    await until(() => stopped.waiting === 2, "two that wait");
    expect((await json(await stopped.send({ echo: true, max_tokens: 0 }))).error.code).toBe("queue_full");
    stopped.go();
    expect((await json(scored)).choices).toHaveLength(2);
    const only = await json(stopped.send({ echo: true, logprobs: 0, max_tokens: 0 }));
    expect(only.choices[0].text).toBe("x");
    const admission = { waiting: 0, waitingTokens: 0, outstandingTokens: 0 };
    expect(stopped.engine.stats().admission).toMatchObject(admission);
  });
});

describe("the time limits of an engine in its process", () => {
  it("end the wait of a text and of a score", async () => {
    const stopped = await Stopped.create({ queueTimeout: 0.5 });
    stopped.stop();
    const asked = [{}, { stream: true }, { prompt: ["a", "b"] }, { echo: true, logprobs: 0, max_tokens: 0 }];
    for (const response of await Promise.all(asked.map((body) => stopped.send(body)))) {
      expect([response.status, response.headers.get("retry-after")]).toEqual([503, "1"]);
      expect((await json(response)).error).toEqual({
        message: "the request waited 0.5 s for its turn; try again later",
        type: "overloaded_error",
        param: null,
        code: "queue_timeout",
      });
    }
    expect(stopped.waiting).toBe(0);
    await until(() => stopped.served.server.open === 0, "nothing to be open");
    await stopped.close();
  });

  it("end a request that has begun, in its stream", async () => {
    const stopped = await Stopped.create({ requestTimeout: 2, queueTimeout: 60 });
    const response = await stopped.send({ stream: true, n: 64, max_tokens: 400, ignore_eos: true });
    expect(response.status).toBe(200); // it has begun
    stopped.stop();
    const chunks = await chunksOf(response);
    expect(chunks.at(-1)).toEqual({
      error: {
        message: "the request took longer than 2 s",
        type: "timeout_error",
        param: null,
        code: "request_timeout",
      },
    });
    await until(() => stopped.served.server.open === 0, "nothing to be open");
    await stopped.close();
  });
});
