import OpenAI, { APIConnectionError, APIError, BadRequestError, NotFoundError } from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine } from "../../lib/engine/index.js";
import { run } from "../cli/support.js";
import { ScriptedEngine } from "./scripted-engine.js";
import { dataOf, type Started, smallEngine, start, until } from "./support.js";

const KEY = "sk-test";
let engine: Engine;
let served: Started;
let client: OpenAI;

beforeAll(async () => {
  engine = await smallEngine();
  served = await start(engine, { apiKeys: [KEY] });
  client = new OpenAI({ baseURL: `${served.url}/v1`, apiKey: KEY });
});
afterAll(async () => {
  await served.server.close({ drain: 0 });
  await engine.close();
});

describe("the official openai client", () => {
  it("completes", async () => {
    const choice = await engine.complete("def f(", { maxTokens: 12 });
    const body = { model: "tiny", prompt: "def f(", max_tokens: 12 };
    const whole = await client.completions.create(body);
    expect(whole.choices[0].text).toBe(choice.text);
    expect(whole.usage?.completion_tokens).toBe(12);
    let text = "";
    for await (const chunk of await client.completions.create({ ...body, stream: true })) text += chunk.choices[0].text;
    expect(text).toBe(choice.text);
  });

  it("infills", async () => {
    const choice = await engine.complete("def f(", { suffix: "return x", maxTokens: 6 });
    const infilled = await client.completions.create({
      model: "tiny",
      prompt: "def f(",
      suffix: "return x",
      max_tokens: 6,
    });
    expect(infilled.choices[0].text).toBe(choice.text);
  });

  it("chats, streamed by its helper, too", async () => {
    const body = { model: "tiny", messages: [{ role: "user" as const, content: "hi" }], max_completion_tokens: 8 };
    const whole = await client.chat.completions.create({ ...body, logprobs: true, top_logprobs: 1 });
    expect(whole.choices[0].message.role).toBe("assistant");
    expect(whole.choices[0].logprobs?.content).toHaveLength(8);
    const stream = client.chat.completions.stream({ ...body, stream_options: { include_usage: true } });
    const final = await stream.finalChatCompletion();
    expect(final.choices[0].message.content).toBe(whole.choices[0].message.content);
    expect(final.usage?.completion_tokens).toBe(8);
  });

  it("hands dllm through both ways", async () => {
    const body = { model: "tiny", prompt: "x", max_tokens: 8, dllm: { block_size: 8, stream_steps: true } };
    const whole = (await client.completions.create(body)) as unknown as { dllm: { steps: unknown[] } };
    expect(whole.dllm.steps.length).toBeGreaterThan(0);
  });

  it("lists models", async () => {
    const names: string[] = [];
    for await (const model of client.models.list()) names.push(model.id);
    expect(names).toEqual(["tiny"]);
    expect((await client.models.retrieve("tiny")).owned_by).toBe("diffcoder");
  });

  it("gets errors of the right classes", async () => {
    await expect(client.completions.create({ model: "other", prompt: "x" })).rejects.toThrow(NotFoundError);
    const wrong = client.completions.create({ model: "tiny", prompt: "x", temperature: -1 });
    await expect(wrong).rejects.toThrow(BadRequestError);
    await expect(wrong).rejects.toMatchObject({ status: 400, param: "temperature", code: "invalid_value" });
    const stranger = new OpenAI({ baseURL: `${served.url}/v1`, apiKey: "wrong", maxRetries: 0 });
    await expect(stranger.models.list()).rejects.toMatchObject({ status: 401, code: "invalid_api_key" });
  });

  it("knows a context that is too short by its code and words", async () => {
    const messages = [{ role: "user" as const, content: "word ".repeat(2000) }];
    const refused = client.chat.completions.create({ model: "tiny", messages, max_tokens: 8 });
    await expect(refused).rejects.toMatchObject({ status: 400, code: "context_length_exceeded", param: "messages" });
    await expect(refused).rejects.toThrow(/^400 This model's maximum context length is 512 tokens\. However, you/);
  });

  it("gets bytes that are the text, and sends what it knows besides text", async () => {
    const answer = await client.chat.completions.create({
      model: "tiny",
      messages: [
        { role: "developer", content: [{ type: "text", text: "Be brief." }] },
        { role: "user", content: "Sort.", name: "ann" },
        { role: "assistant", content: [{ type: "refusal", refusal: "no" }] },
        { role: "user", content: "Please." },
      ],
      max_completion_tokens: 12,
      logprobs: true,
      top_logprobs: 1,
      seed: -1,
      top_p: 0,
      store: true,
      verbosity: "low",
      reasoning_effort: "low",
      service_tier: "flex",
      metadata: { run: "1" },
    });
    const [{ message, logprobs }] = answer.choices;
    const bytes = (logprobs?.content ?? []).flatMap((token) => token.bytes ?? []);
    expect(Buffer.from(bytes).toString("utf8")).toBe(message.content);
  });

  it("tries again after 503, at the time it is told", async () => {
    const busy = new ScriptedEngine({ blockTime: 10, maxNumSeqs: 1, limits: { maxQueue: 1 } });
    await using full = await start(busy);
    const other = new OpenAI({ baseURL: `${full.url}/v1`, apiKey: "none", maxRetries: 4 });
    const body = { model: "tiny", prompt: "x", max_tokens: 120 };
    const first = full.post("/v1/completions", { ...body, max_tokens: 400 });
    // Until it has begun it waits, too, and there is room for one.
    await until(() => busy.running === 1, "the first to begin");
    const taken = [first, full.post("/v1/completions", body)];
    await until(() => busy.waiting === 1, "a full queue");
    const late = await other.completions.create({ ...body, max_tokens: 4 });
    expect(late.choices[0].finish_reason).toBe("length");
    expect(full.log.filter(({ code }) => code === "queue_full").length).toBeGreaterThan(0);
    for (const each of await Promise.all(taken)) expect(each.status).toBe(200);
  });

  it("stops the engine when it aborts or leaves its loop", async () => {
    const slow = new ScriptedEngine({ blockTime: 20 });
    await using open = await start(slow);
    const other = new OpenAI({ baseURL: `${open.url}/v1`, apiKey: "none" });
    const body = { model: "tiny", prompt: "x", max_tokens: 400, stream: true as const };
    for await (const _ of await other.completions.create(body)) break;
    await until(() => slow.aborted === 1, "the loop that was left");
    const stream = await other.completions.create(body);
    for await (const _ of stream) stream.controller.abort();
    await until(() => slow.aborted === 2, "the abort");
    const controller = new AbortController();
    const whole = other.completions.create({ ...body, stream: false }, { signal: controller.signal });
    await until(() => slow.running === 1, "the request");
    controller.abort();
    await expect(whole).rejects.toThrow(APIError);
    await until(() => slow.aborted === 3 && slow.running === 0, "the abort of a whole answer");
  });

  it("gets an error of the stream as an error", async () => {
    const failing = new ScriptedEngine({ blockTime: 5, fail: { after: 2, error: new Error("x") } });
    await using broken = await start(failing);
    const other = new OpenAI({ baseURL: `${broken.url}/v1`, apiKey: "none" });
    const read = async () => {
      for await (const _ of await other.completions.create({
        model: "tiny",
        prompt: "x",
        max_tokens: 40,
        stream: true,
      })) {
        // to the end
      }
    };
    await expect(read()).rejects.toMatchObject({ code: "internal_error" });
    await expect(read()).rejects.not.toBeInstanceOf(APIConnectionError);
  });
});

describe("curl", () => {
  const curl = (...args: string[]) => run("curl", ["-sS", "--max-time", "20", ...args]);
  const auth = ["-H", `Authorization: Bearer ${KEY}`];
  const json = ["-H", "Content-Type: application/json"];

  it("completes, whole and as a stream", async () => {
    const choice = await engine.complete("def f(", { maxTokens: 8 });
    const data = ["-d", '{"prompt": "def f(", "max_tokens": 8}'];
    const whole = await curl(`${served.url}/v1/completions`, ...auth, ...json, ...data);
    expect(JSON.parse(whole.stdout).choices[0].text).toBe(choice.text);
    const stream = ["-N", "-d", '{"prompt": "def f(", "max_tokens": 8, "stream": true}'];
    const streamed = await curl(`${served.url}/v1/completions`, ...auth, ...json, ...stream);
    const data2 = dataOf(streamed.stdout);
    expect(data2.at(-1)).toBe("[DONE]");
    const text = data2.slice(0, -1).map((each) => JSON.parse(each).choices[0].text);
    expect(text.join("")).toBe(choice.text);
  });

  it("is told in words what is wrong", async () => {
    const refused = await curl(`${served.url}/v1/completions`, ...auth, ...json, "-d", "{'prompt': 1}");
    expect(JSON.parse(refused.stdout).error).toMatchObject({ code: "invalid_json", type: "invalid_request_error" });
    const failed = await run("curl", ["-sSf", `${served.url}/v1/models`]);
    expect(failed.code).toBe(22);
  });
});
