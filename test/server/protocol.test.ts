import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine } from "../../lib/engine/index.js";
import { chunksOf, type Json, json, type Started, smallEngine, start } from "./support.js";

let engine: Engine;
let served: Started;

beforeAll(async () => {
  engine = await smallEngine();
  served = await start(engine);
});
afterAll(async () => {
  await served.server.close({ drain: 0 });
  await engine.close();
});

const complete = (body: object, init?: RequestInit) => served.post("/v1/completions", body, init);
const chat = (body: object) =>
  served.post("/v1/chat/completions", { messages: [{ role: "user", content: "Sort a list." }], ...body });

/** What clients know an overflow by: LiteLLM and crewAI, LangChain's neighbours, coding agents that count. */
const OVERFLOW_PATTERNS = [
  /this model's maximum context length is/i,
  /maximum context length is \d+ tokens/,
  /reduce the length of the messages/i,
  /^This model's maximum context length is (\d+) tokens\. However, you requested (at least )?(\d+) tokens \((\d+) in the messages, (\d+) in the completion\)\. Please reduce the length of the messages or completion\./,
];

/** Where tokens begin that are whole characters. */
function offsetsOf(tokens: string[]): number[] {
  return tokens.map((_, i) => [...tokens.slice(0, i).join("")].length);
}

/** What a stream of one choice says in all. */
function joined(chunks: Json[], index = 0): string {
  const mine = chunks.flatMap((chunk) => chunk.choices).filter((choice: Json) => choice.index === index);
  return mine.map((choice: Json) => choice.text ?? choice.delta?.content ?? "").join("");
}

describe("/v1/completions", () => {
  it("has OpenAI's form", async () => {
    const response = await complete({ model: "tiny", prompt: "def f(", max_tokens: 8 });
    expect(response.status).toBe(200);
    expect(await json(response)).toEqual({
      id: expect.stringMatching(/^cmpl-[0-9a-f]{32}$/),
      object: "text_completion",
      created: expect.any(Number),
      model: "tiny",
      system_fingerprint: expect.stringMatching(/^fp_[0-9a-f]{12}$/),
      choices: [{ index: 0, text: expect.any(String), logprobs: null, finish_reason: "length", stop_reason: null }],
      usage: {
        prompt_tokens: 3,
        completion_tokens: 8,
        total_tokens: 11,
        prompt_tokens_details: { cached_tokens: expect.any(Number) },
      },
      dllm: {
        forwards: expect.any(Number),
        denoising_steps: expect.any(Number),
        tokens_per_forward: expect.any(Number),
      },
    });
  });

  it("gives what the engine gives, and a stream the same", async () => {
    const options = { maxTokens: 24, temperature: 0.8, seed: 7 };
    const alone = await engine.complete("for i in", options);
    const request = { prompt: "for i in", max_tokens: 24, temperature: 0.8, seed: 7 };
    const whole = await json(complete(request));
    expect(whole.choices[0].text).toBe(alone.text);
    const chunks = await chunksOf(complete({ ...request, stream: true }));
    expect(joined(chunks)).toBe(alone.text);
    expect(chunks.at(-1).choices[0].finish_reason).toBe("length");
    expect(chunks.filter((chunk) => "usage" in chunk)).toEqual([]);
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
  });

  it("takes texts and ids, one or several, and n of each", async () => {
    const ids = engine.tokenizer?.encode("def f(") ?? [];
    const body = { max_tokens: 6, temperature: 0 };
    const text = (await json(complete({ ...body, prompt: "def f(" }))).choices[0].text;
    expect((await json(complete({ ...body, prompt: ids }))).choices[0].text).toBe(text);
    const several = await json(complete({ ...body, prompt: [ids, ids], n: 2 }));
    expect(several.choices.map(({ index }: Json) => index)).toEqual([0, 1, 2, 3]);
    expect(several.choices.map((choice: Json) => choice.text)).toEqual([text, text, text, text]);
    expect(several.usage).toMatchObject({ prompt_tokens: 2 * ids.length, completion_tokens: 24 });
    const mixed = await json(complete({ ...body, prompt: ["def f(", "import"] }));
    expect(mixed.choices[0].text).toBe(text);
    expect(mixed.choices[1].text).not.toBe(text);
  });

  it("draws other texts for n choices, and the same again with the seed", async () => {
    const request = { prompt: "x =", max_tokens: 12, temperature: 1, n: 3, seed: 11 };
    const texts = (await json(complete(request))).choices.map((choice: Json) => choice.text);
    expect(new Set(texts).size).toBe(3);
    const chunks = await chunksOf(complete({ ...request, stream: true }));
    expect([0, 1, 2].map((index) => joined(chunks, index))).toEqual(texts);
  });

  it.each([
    ["autoregressive", { mode: "autoregressive" }, { mode: "autoregressive" }],
    ["by the diffusion bound", { mode: "diffusion", block_size: 2 }, { mode: "diffusion", blockSize: 2 }],
    ["by default as it generates, by diffusion", undefined, { mode: "diffusion" }],
    ["with random masks of long blocks", { block_size: 8 }, { mode: "diffusion", blockSize: 8, seed: -3 }],
  ] as const)("scores the prompt with echo and max_tokens 0, as the engine does: %s", async (_, dllm, options) => {
    const prompt = "def add(a, b):\n    return a + b\n";
    const ids = engine.tokenizer?.encode(prompt) ?? [];
    const score = await engine.score(ids, { ...options, logprobs: 2 });
    const body = { prompt, echo: true, max_tokens: 0, logprobs: 2, dllm, seed: -3 };
    const { choices, usage, dllm: told } = await json(complete(body));
    const { mode, nll, mcSamples, standardError } = score;
    expect(told.scores).toEqual([{ mode, nll, mc_samples: mcSamples, standard_error: standardError }]);
    const [opening] = await chunksOf(complete({ ...body, stream: true }));
    expect(opening.dllm).toEqual({ index: 0, score: told.scores[0] });
    expect(opening.choices[0].logprobs).toEqual(choices[0].logprobs);
    const { tokens, token_logprobs, top_logprobs, text_offset } = choices[0].logprobs;
    expect(choices[0].text).toBe(prompt);
    expect(tokens.join("")).toBe(prompt);
    expect(token_logprobs).toEqual(score.logprobs);
    expect(token_logprobs[0]).toBeNull();
    expect(top_logprobs[0]).toBeNull();
    // lm-evaluation-harness reads from these whether a text is the greedy one.
    top_logprobs.slice(1).forEach((top: Record<string, number>, i: number) => {
      expect(top[tokens[i + 1]]).toBeCloseTo(token_logprobs[i + 1], 6);
      expect(Math.max(...Object.values(top))).toBe(score.topLogprobs?.[i + 1]?.[0].logprob);
    });
    text_offset.forEach((at: number, i: number) => void expect(prompt.startsWith(tokens[i], at)).toBe(true));
    expect(usage).toMatchObject({ prompt_tokens: ids.length, completion_tokens: 0 });
  });

  it("puts the prompt first with echo, in a stream, too", async () => {
    const request = { prompt: "a = 1\n", echo: true, max_tokens: 5, logprobs: 1 };
    const whole = await json(complete(request));
    expect(whole.choices[0].text.startsWith("a = 1\n")).toBe(true);
    const { tokens, token_logprobs } = whole.choices[0].logprobs;
    expect(tokens.join("")).toBe(whole.choices[0].text);
    expect(token_logprobs.slice(1).every((each: number) => each < 0)).toBe(true);
    expect(whole.choices[0].logprobs.text_offset).toEqual(offsetsOf(tokens));
    expect(joined(await chunksOf(complete({ ...request, stream: true })))).toBe(whole.choices[0].text);
  });

  it("gives the log-probabilities of the committing pass", async () => {
    const choice = await engine.complete("class", { maxTokens: 6, logprobs: 3 });
    const { logprobs } = (await json(complete({ prompt: "class", max_tokens: 6, logprobs: 3 }))).choices[0];
    expect(logprobs.tokens).toEqual(choice.tokens.map(({ text }) => text));
    expect(logprobs.token_logprobs).toEqual(choice.tokens.map(({ logprob }) => logprob));
    for (const top of logprobs.top_logprobs) expect(Object.keys(top).length).toBeGreaterThanOrEqual(3);
  });

  it("ends at stop strings and ids, and says which", async () => {
    const free = await json(complete({ prompt: "def f(", max_tokens: 24, return_token_ids: true }));
    const { text, token_ids: ids } = free.choices[0];
    const word = text.slice(6, 10);
    const stopped = (await json(complete({ prompt: "def f(", max_tokens: 24, stop: word }))).choices[0];
    expect(stopped).toMatchObject({
      text: text.slice(0, text.indexOf(word)),
      finish_reason: "stop",
      stop_reason: word,
    });
    const id = ids[5];
    const byId = (await json(complete({ prompt: "def f(", max_tokens: 24, stop_token_ids: [id] }))).choices[0];
    expect(byId).toMatchObject({ finish_reason: "stop", stop_reason: id });
    const streamed = await chunksOf(
      complete({ prompt: "def f(", max_tokens: 24, stop: [word, "never"], stream: true }),
    );
    expect(joined(streamed)).toBe(stopped.text);
  });

  it("honours logit_bias and the penalties", async () => {
    const id = engine.tokenizer?.encode(" return", { addSpecialTokens: false })[0];
    const forced = await json(complete({ prompt: "x", max_tokens: 4, logit_bias: { [String(id)]: 100 } }));
    expect(forced.choices[0].text).toBe(" return return return return");
    const varied = await json(
      complete({ prompt: "x", max_tokens: 8, logit_bias: { [String(id)]: 5 }, frequency_penalty: 2 }),
    );
    expect(varied.choices[0].text).not.toBe(" return".repeat(8));
  });

  it("has no scores for the empty text that is before a suffix", async () => {
    const body = { prompt: "", suffix: "    return x\n", echo: true, logprobs: 1 };
    const { choices } = await json(complete({ ...body, max_tokens: 3 }));
    expect(choices[0].logprobs.tokens).toHaveLength(3);
    const none = await json(complete({ ...body, max_tokens: 0 }));
    expect(none.choices[0]).toMatchObject({ text: "", logprobs: { tokens: [], token_logprobs: [] } });
  });

  it("infills between prompt and suffix", async () => {
    const choice = await engine.complete("def f(", { suffix: "    return x\n", maxTokens: 8 });
    const { choices } = await json(complete({ prompt: "def f(", suffix: "    return x\n", max_tokens: 8 }));
    expect(choices[0].text).toBe(choice.text);
  });

  it("reports usage as asked for", async () => {
    const request = { prompt: "def f(", max_tokens: 6, stream: true };
    const last = await chunksOf(complete({ ...request, stream_options: { include_usage: true } }));
    expect(last.at(-1)).toMatchObject({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 6 } });
    expect(last.slice(0, -1).every(({ usage }) => usage === null)).toBe(true);
    const each = await chunksOf(complete({ ...request, stream_options: { continuous_usage_stats: true } }));
    const counts = each.map(({ usage }) => usage.completion_tokens);
    expect(counts).toEqual([...counts].sort((a, b) => a - b));
    expect(counts.at(-1)).toBe(6);
  });
});

describe("the dllm object", () => {
  it("reports every denoising pass, and they add up to the text", async () => {
    const dllm = { block_size: 8, commit: { rule: "threshold", value: 0.0001 }, stream_steps: true };
    const request = { prompt: "def f(", max_tokens: 24, dllm };
    const whole = await json(complete(request));
    expect(whole.dllm.denoising_steps).toBe(whole.dllm.steps.length);
    expect(whole.dllm.tokens_per_forward).toBeGreaterThan(1);
    const chunks = await chunksOf(complete({ ...request, stream: true }));
    const steps = chunks.map((chunk) => chunk.dllm).filter((each) => each?.committed);
    expect(steps).toEqual(whole.dllm.steps);
    const tokens = steps.flatMap((step) => step.committed).sort((a: Json, b: Json) => a.position - b.position);
    expect(tokens.map(({ text }: Json) => text).join("")).toBe(whole.choices[0].text);
    expect(tokens.map(({ position }: Json) => position)).toEqual(Array.from({ length: 24 }, (_, i) => 3 + i));
    for (const { start, end, masks_left, committed } of steps) {
      expect(end - start).toBeLessThanOrEqual(8);
      expect(masks_left + committed.length).toBeLessThanOrEqual(8);
    }
    const ends = chunks.map((chunk) => chunk.dllm).filter((each) => each?.forwards);
    expect(ends).toEqual([{ index: 0, ...whole.dllm, steps: undefined }].map(({ steps: _, ...rest }) => rest));
  });

  it("decodes autoregressively, by steps, and by threshold", async () => {
    const ar = await engine.complete("x = ", { mode: "autoregressive", maxTokens: 8 });
    const body = { prompt: "x = ", max_tokens: 8 };
    expect((await json(complete({ ...body, dllm: { mode: "autoregressive" } }))).choices[0].text).toBe(ar.text);
    const two = await engine.complete("x = ", { commit: { rule: "static", steps: 2 }, maxTokens: 8 });
    const steps = await json(complete({ ...body, dllm: { steps: 2 } }));
    expect(steps.choices[0].text).toBe(two.text);
    expect(steps.dllm.denoising_steps).toBe(two.usage.denoisingSteps);
    const sure = await engine.complete("x = ", { commit: { rule: "threshold", value: 0.5 }, maxTokens: 8 });
    expect((await json(complete({ ...body, dllm: { threshold: 0.5 } }))).choices[0].text).toBe(sure.text);
  });

  it.each([
    [{ steps: 2, threshold: 0.5 }, "dllm.threshold"],
    [{ mode: "autoregressive", steps: 2 }, "dllm.steps"],
    [{ commit: { rule: "none" } }, "dllm.commit.rule"],
    [{ blok_size: 4 }, "dllm.blok_size"],
    [{ edit: { start: 4, end: 4 } }, "dllm.edit.end"],
  ])("refuses %j", async (dllm, param) => {
    const response = await complete({ prompt: "x", dllm });
    expect(response.status).toBe(400);
    expect((await json(response)).error.param).toBe(param);
  });
});

describe("/v1/chat/completions", () => {
  it("has OpenAI's form, and stops at the template's end", async () => {
    const ids = engine.tokenizer?.encodeChat([{ role: "user", content: "Sort a list." }], {
      addGenerationPrompt: true,
    });
    const choice = await engine.complete(ids ?? [], { maxTokens: 8 });
    const body = await json(chat({ max_completion_tokens: 8 }));
    expect(body).toMatchObject({
      id: expect.stringMatching(/^chatcmpl-/),
      object: "chat.completion",
      choices: [{ index: 0, message: { role: "assistant", content: choice.text }, logprobs: null }],
      usage: { prompt_tokens: ids?.length, completion_tokens: 8 },
    });
  });

  it("streams the role, then words, then the reason", async () => {
    const whole = await json(chat({ max_tokens: 8 }));
    const chunks = await chunksOf(chat({ max_tokens: 8, stream: true }));
    expect(chunks[0].choices[0].delta).toEqual({ role: "assistant", content: "" });
    expect(joined(chunks)).toBe(whole.choices[0].message.content);
    expect(chunks.at(-1).choices[0]).toMatchObject({ delta: {}, finish_reason: "length" });
    expect(chunks.every(({ object }) => object === "chat.completion.chunk")).toBe(true);
  });

  it("gives log-probabilities with their bytes", async () => {
    const { choices } = await json(chat({ max_tokens: 4, logprobs: true, top_logprobs: 2 }));
    const { content } = choices[0].logprobs;
    expect(content).toHaveLength(4);
    for (const { token, bytes, logprob, top_logprobs } of content) {
      expect(Buffer.from(bytes).toString()).toBe(token);
      expect(logprob).toBeLessThan(0);
      expect(top_logprobs).toHaveLength(2);
    }
  });

  it("takes parts of text and the newer name of the system's role", async () => {
    const body = { max_tokens: 4, temperature: 0 };
    const plain = await json(
      served.post("/v1/chat/completions", {
        ...body,
        messages: [
          { role: "system", content: "Be brief." },
          { role: "user", content: "Sort it." },
        ],
      }),
    );
    const parts = [
      { type: "text", text: "Sort " },
      { type: "text", text: "it." },
    ];
    const newer = await json(
      served.post("/v1/chat/completions", {
        ...body,
        messages: [
          { role: "developer", content: "Be brief." },
          { role: "user", content: parts },
        ],
      }),
    );
    expect(newer.choices).toEqual(plain.choices);
  });
});

describe("what is not honoured is refused", () => {
  it.each([
    [{ best_of: 3 }, "unsupported_parameter", "best_of"],
    [{ min_tokens: 5 }, "unsupported_parameter", "min_tokens"],
    [{ response_format: { type: "json_object" } }, "unsupported_parameter", "response_format"],
    [{ temperature: -1 }, "invalid_value", "temperature"],
    [{ best_of: 1, n: 2 }, "unsupported_parameter", "best_of"],
    [{ best_of: "2" }, "invalid_value", "best_of"],
    [{ seed: 1.5 }, "invalid_value", "seed"],
    [{ seed: "1" }, "invalid_value", "seed"],
    [{ top_p: -0.1 }, "invalid_value", "top_p"],
    [{ top_p: 1.1 }, "invalid_value", "top_p"],
    [{ logprobs: 21 }, "invalid_value", "logprobs"],
    [{ n: 65 }, "invalid_value", "n"],
    [{ max_tokens: 512 }, "context_length_exceeded", "max_tokens"],
    [{ max_tokens: 0 }, "invalid_value", "max_tokens"],
    [{ logit_bias: { "5000": 1 } }, "invalid_value", "logit_bias"],
    [{ stop_token_ids: [5000] }, "invalid_value", "stop_token_ids"],
    [{ stream_options: { include_usage: true } }, "invalid_value", "stream_options"],
    [{ prompt: [] }, "invalid_value", "prompt"],
    [{ prompt: [5000] }, "invalid_value", "prompt"],
    [{ prompt: ["a", 1] }, "invalid_value", "prompt"],
    [{ prompt: null }, "invalid_value", "prompt"],
  ])("of completions: %j", async (fields, code, param) => {
    const response = await complete({ prompt: "x", ...fields });
    expect(response.status).toBe(400);
    const { error } = await json(response);
    expect(error).toMatchObject({ type: "invalid_request_error", code, param });
    expect(error.message).toContain(param);
  });

  it("of completions: a text that is too long, before it is cut into tokens", async () => {
    const response = await complete({ prompt: "x".repeat(1_000_000) });
    expect(response.status).toBe(400);
    expect((await json(response)).error).toMatchObject({ code: "context_length_exceeded", param: "prompt" });
  });

  it("a context that is too short, in the words that clients know", async () => {
    const ids = new Array(600).fill(7);
    const long = Array.from({ length: 600 }, (_, i) => `word${i}`).join(" ");
    const messages = [{ role: "user", content: long }];
    const sent = [
      [complete({ prompt: ids }), "prompt"],
      [complete({ prompt: "x".repeat(1_000_000) }), "prompt"],
      [complete({ prompt: ids, dllm: { edit: { start: 0, end: 2 } } }), "prompt"],
      [complete({ prompt: ids, echo: true, max_tokens: 0, logprobs: 1 }), "prompt"],
      [complete({ prompt: "x", suffix: long }), "prompt"],
      [chat({ messages, max_tokens: 5 }), "messages"],
      [chat({ messages: [{ role: "user", content: "x".repeat(1_000_000) }] }), "messages"],
      [complete({ prompt: ids.slice(0, 500), max_tokens: 100 }), "max_tokens"],
      [chat({ max_completion_tokens: 600 }), "max_completion_tokens"],
    ] as const;
    const messagesOf: string[] = [];
    for (const [response, param] of sent) {
      expect((await response).status).toBe(400);
      const { error } = await json(response);
      messagesOf.push(error.message);
      expect(error).toMatchObject({ code: "context_length_exceeded", type: "invalid_request_error", param });
      const { message } = error;
      for (const known of OVERFLOW_PATTERNS) expect(message).toMatch(known);
      expect(/prompt is too long: (at least )?\d+ tokens > 512 maximum/.test(message)).toBe(!param.startsWith("max_"));
      // LangChain's own words, which it looks for in the message only.
      expect(message).toMatch(/context_length_exceeded|prompt is too long/);
    }
    expect(messagesOf[7]).toBe(
      "This model's maximum context length is 512 tokens. However, you requested 600 tokens (500 in the messages, 100 " +
        "in the completion). Please reduce the length of the messages or completion. max_tokens: the prompt is too long " +
        "to leave room for 100 tokens",
    );
  });

  it.each([
    [{ tools: [{ type: "function", function: { name: "f" } }] }, "unsupported_parameter", "tools"],
    [{ tool_choice: "required" }, "unsupported_parameter", "tool_choice"],
    [{ functions: [{ name: "f" }] }, "unsupported_parameter", "functions"],
    [{ function_call: { name: "f" } }, "unsupported_parameter", "function_call"],
    [
      { response_format: { type: "json_schema", json_schema: { name: "x" } } },
      "unsupported_parameter",
      "response_format",
    ],
    [{ modalities: ["text", "audio"] }, "unsupported_parameter", "modalities"],
    [{ audio: { voice: "alloy", format: "mp3" } }, "unsupported_parameter", "audio"],
    [{ web_search_options: {} }, "unsupported_parameter", "web_search_options"],
    [{ moderation: { model: "omni" } }, "unsupported_parameter", "moderation"],
    [{ best_of: 2 }, "unsupported_parameter", "best_of"],
    [{ store: "yes" }, "invalid_value", "store"],
    [{ metadata: { a: 1 } }, "invalid_value", "metadata.a"],
    [
      { stream: true, stream_options: { include_obfuscation: true } },
      "invalid_value",
      "stream_options.include_obfuscation",
    ],
    [{ messages: [{ role: "user" }] }, "invalid_value", "messages[0].content"],
    [{ messages: [{ role: "user", content: [{ type: "text" }] }] }, "invalid_value", "messages[0].content"],
    [
      { messages: [{ role: "user", content: [{ type: "refusal", refusal: "no" }] }] },
      "invalid_value",
      "messages[0].content",
    ],
    [{ messages: [{ role: "user", content: "x", name: 1 }] }, "invalid_value", "messages[0].name"],
    [{ messages: [{ role: "assistant", audio: { id: "a" } }] }, "invalid_value", "messages[0].audio"],
    [{ top_logprobs: 2 }, "invalid_value", "top_logprobs"],
    [{ messages: [] }, "invalid_value", "messages"],
    [{ messages: [{ role: "poet", content: "x" }] }, "invalid_value", "messages[0].role"],
    [{ messages: [{ role: "user", content: [{ type: "image_url" }] }] }, "invalid_value", "messages[0].content"],
  ])("of chat: %j", async (fields, code, param) => {
    const response = await chat(fields);
    expect(response.status).toBe(400);
    expect((await json(response)).error).toMatchObject({ code, param });
  });

  it("unless it asks for nothing", async () => {
    const neutral = { best_of: 1, min_tokens: 0, response_format: { type: "text" }, suffix: null, user: "me" };
    expect((await complete({ prompt: "x", max_tokens: 1, ...neutral })).status).toBe(200);
    expect((await complete({ prompt: "x", max_tokens: 1, n: 2, best_of: 2, logit_bias: null })).status).toBe(200);
    const fields = { tools: [], tool_choice: "none", function_call: "auto", modalities: ["text"], audio: null };
    expect((await chat({ max_tokens: 1, ...fields })).status).toBe(200);
  });

  it("nor does a hint change the answer, or is named as unknown", async () => {
    const hints = {
      verbosity: "low",
      reasoning_effort: "high",
      store: true,
      metadata: { run: "7" },
      service_tier: "flex",
      prompt_cache_key: "k",
      prompt_cache_retention: "24h",
      prompt_cache_options: { mode: "explicit" },
      safety_identifier: "s",
      parallel_tool_calls: false,
      prediction: { type: "content", content: "def f(x):" },
      user: "u".repeat(2000),
    };
    const plain = await json(chat({ max_tokens: 6 }));
    const response = await chat({ max_tokens: 6, ...hints });
    expect(response.headers.get("x-ignored-parameters")).toBeNull();
    expect((await json(response)).choices).toEqual(plain.choices);
    const none = Object.fromEntries(Object.keys(hints).map((name) => [name, null]));
    expect((await chat({ max_tokens: 1, ...none })).status).toBe(200);
  });

  it("takes every kind of message, as its text", async () => {
    const answer = async (messages: object[]) =>
      (await json(served.post("/v1/chat/completions", { messages, max_tokens: 6 }))).choices;
    const plain = await answer([
      { role: "user", content: "Sort." },
      { role: "assistant", content: "no" },
      { role: "user", content: "Please." },
    ]);
    const text = { type: "text", text: "Sort.", cache_control: { type: "ephemeral" }, prompt_cache_breakpoint: {} };
    const rich = (refused: object) => [
      { role: "user", content: [text], name: "ann" },
      { role: "assistant", function_call: null, tool_calls: null, audio: null, ...refused },
      { role: "user", content: [{ type: "text", text: "Please." }] },
    ];
    expect(await answer(rich({ content: [{ type: "refusal", refusal: "no" }] }))).toEqual(plain);
    expect(await answer(rich({ content: null, refusal: "no" }))).toEqual(plain);
    expect(await answer(rich({ content: "no", refusal: null }))).toEqual(plain);
  });

  it("draws by every bit of a seed of 64, and by the likeliest token alone with top_p 0", async () => {
    const text = async (seed: string, more = "") => {
      const body = `{"prompt": "x =", "max_tokens": 12, "temperature": 1, "seed": ${seed}${more}}`;
      const response = await complete(body as unknown as object);
      const { choices, error } = await json(response);
      expect(error).toBeUndefined();
      return choices[0].text as string;
    };
    const seeds = ["-1", "9223372036854775807", "9223372036854775806", "-9223372036854775808", "9007199254740993"];
    const texts = await Promise.all([...seeds, "9007199254740992", "0", "1"].map((seed) => text(seed)));
    expect(new Set(texts).size).toBe(texts.length);
    expect(await text("9223372036854775807 ")).toBe(texts[1]);
    // Of equal keys the last counts, and one inside another object is not the request's.
    const nested = ', "unknown": {"seed": 5}, "a\\"": "\\"seed\\": 3", "seed": 9223372036854775807';
    expect(await text("3", nested)).toBe(texts[1]);
    expect(await text("4", ', "top_p": 0')).toBe(await text("5", ', "temperature": 0'));
    for (const wrong of ["9223372036854775808", "-9223372036854775809", "1e30", "1e999", "123456789012345678901234"]) {
      const response = await complete(`{"prompt": "x", "seed": ${wrong}}` as unknown as object);
      expect(response.status).toBe(400);
      expect((await json(response)).error).toMatchObject({ code: "invalid_value", param: "seed" });
    }
  });

  it("names fields that nobody knows, once in the log, or refuses them in strict mode", async () => {
    for (const _ of [1, 2]) {
      const response = await complete({ prompt: "x", max_tokens: 1, temprature: 1 });
      expect(response.headers.get("x-ignored-parameters")).toBe("temprature");
    }
    expect(served.log.filter(({ field }) => field === "temprature")).toHaveLength(1);
    await using strict = await start(engine, { strict: true });
    const refused = await strict.post("/v1/completions", { prompt: "x", temprature: 1 });
    expect(refused.status).toBe(400);
    const { error } = await json(refused);
    expect(error).toMatchObject({ code: "unknown_parameter", param: "temprature" });
    expect(error.message).toContain("temperature");
  });

  it("and so is another model, or chat with one that has no template", async () => {
    const other = await complete({ model: "gpt-5", prompt: "x" });
    expect(other.status).toBe(404);
    expect((await json(other)).error).toMatchObject({ code: "model_not_found", param: "model" });
    const facts = { ...engine.model, hasChatTemplate: false, hasFim: false };
    const plain = {
      model: facts,
      tokenizer: engine.tokenizer,
      reserve: engine.reserve.bind(engine),
      generate: engine.generate.bind(engine),
      score: engine.score.bind(engine),
      stats: () => engine.stats(),
    };
    await using mute = await start(plain);
    const refused = await mute.post("/v1/chat/completions", { messages: [{ role: "user", content: "x" }] });
    expect(refused.status).toBe(400);
    expect((await json(refused)).error).toMatchObject({ code: "chat_template_missing" });
    const infill = await mute.post("/v1/completions", { prompt: "x", suffix: "y" });
    expect((await json(infill)).error).toMatchObject({ code: "infilling_unsupported", param: "suffix" });
  });
});

describe("the other routes", () => {
  it("describe the model", async () => {
    const list = await json(fetch(`${served.url}/v1/models`));
    expect(list).toMatchObject({ object: "list", data: [{ id: "tiny", object: "model", max_model_len: 512 }] });
    expect(await json(fetch(`${served.url}/v1/models/tiny`))).toEqual(list.data[0]);
    expect((await fetch(`${served.url}/v1/models/org%2Fother`)).status).toBe(404);
    expect(await json(fetch(`${served.url}/version`))).toMatchObject({ version: expect.stringMatching(/^\d/) });
  });

  it("turn text into ids and back", async () => {
    const text = "def f(x):\n    return x  # π\n";
    const made = await json(served.post("/tokenize", { prompt: text, return_token_strs: true }));
    expect(made).toMatchObject({ tokens: engine.tokenizer?.encode(text), max_model_len: 512 });
    expect(made.count).toBe(made.tokens.length);
    expect((await json(served.post("/detokenize", { tokens: made.tokens }))).prompt).toBe(text);
    const messages = [{ role: "user", content: "hi" }];
    const chatted = await json(served.post("/tokenize", { messages }));
    expect(chatted.tokens).toEqual(engine.tokenizer?.encodeChat(messages, { addGenerationPrompt: true }));
    expect((await served.post("/tokenize", { prompt: "x", messages })).status).toBe(400);
    expect((await served.post("/detokenize", { tokens: [99_999] })).status).toBe(400);
  });

  it("say what is not there, and how else it may be asked for", async () => {
    const nothing = await fetch(`${served.url}/v2/anything`);
    expect(nothing.status).toBe(404);
    expect((await json(nothing)).error.code).toBe("not_found");
    const wrong = await fetch(`${served.url}/v1/completions`);
    expect(wrong.status).toBe(405);
    expect(wrong.headers.get("allow")).toBe("POST");
    expect(
      (await served.post("/v1/completions", "prompt=x", { headers: { "content-type": "text/plain" } })).status,
    ).toBe(415);
  });

  it("serve a page, with nothing from elsewhere", async () => {
    const page = await fetch(`${served.url}/`);
    expect(page.headers.get("content-type")).toMatch(/^text\/html/);
    const policy = page.headers.get("content-security-policy");
    expect(policy).toContain("default-src 'self'");
    expect(policy).toContain("frame-ancestors 'none'");
    expect(policy).not.toMatch(/unsafe-inline|data:/);
    expect(await page.text()).not.toMatch(/(src|href)="https?:/);
    // As a browser asks; fetch adds no-cache by itself.
    const conditional = { "if-none-match": page.headers.get("etag") ?? "", "cache-control": "max-age=0" };
    const again = await fetch(`${served.url}/`, { headers: conditional });
    expect(again.status).toBe(304);
    await using plain = await start(engine, { pageFolder: "/nowhere" });
    const text = await (await fetch(`${plain.url}/`)).text();
    expect(text).toContain("/v1/models");
    expect(text).not.toMatch(/<style|style=/);
    expect((await fetch(`${plain.url}/page.css`)).headers.get("content-type")).toMatch(/^text\/css/);
  });
});
