import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, describe, expect, it } from "vitest";
import { toApiError } from "../../lib/server/engine-error.js";
import { parseBody } from "../../lib/server/operations/body.js";
import { PromptPool } from "../../lib/server/prompts/prompt-pool.js";
import { Tokenizer } from "../../lib/tokenizer/index.js";
import { TOKENIZER } from "../cli/support.js";
import { ScriptedEngine } from "./scripted-engine.js";
import { json, start, until } from "./support.js";

const tokenizer = Tokenizer.fromPretrained(TOKENIZER);
const { dir, hash, options } = tokenizer;
const pools: PromptPool[] = [];
afterAll(() => {
  for (const pool of pools) pool.close();
});
function pool(timeout: number): PromptPool {
  const made = new PromptPool({ dir, hash, options }, { timeout });
  pools.push(made);
  return made;
}

/** Takes seconds, whatever the template and the tokenizer are. */
const endless = new Array<number>(4_000_000).fill(300);
const encode = (text: string) => ({ text, addSpecialTokens: true, maxLength: 1_000_000 });

describe("prompts in threads", () => {
  it("give what the tokenizer gives here", async () => {
    const threads = pool(60);
    for (const text of ["", "def f(x):\n    return x\n", "é😀 \ud800", "x".repeat(100_000)]) {
      const answer = await threads.run("encode", encode(text));
      expect("ids" in answer && Array.from(answer.ids)).toEqual(tokenizer.encode(text));
    }
    const messages = [{ role: "user", content: "hi" }];
    const chat = await threads.run("chat", {
      ...{ messages, options: { addGenerationPrompt: true }, addSpecialTokens: false, maxLength: 512 },
    });
    expect("ids" in chat && Array.from(chat.ids)).toEqual(
      tokenizer.encodeChat(messages, { addGenerationPrompt: true }),
    );
    const ids = tokenizer.encode("a b c");
    expect(await threads.run("decode", ids)).toBe(tokenizer.decode(ids));
    expect(await threads.run("names", ids)).toEqual(ids.map((id) => tokenizer.decode([id])));
    await expect(threads.run("decode", [-1])).rejects.toMatchObject({ code: "TOKENIZER_ID" });
    expect(await threads.run("encode", { ...encode("x".repeat(10_000)), maxLength: 10 })).toHaveProperty("atLeast");
  }, 60_000);

  it("that take too long cost their thread, and others are read meanwhile and afterwards", async () => {
    const threads = pool(1);
    await until(
      async () => (await threads.run("encode", encode("x")).catch(() => undefined)) !== undefined,
      "a thread",
      60,
    );
    let turns = 0;
    const timer = setInterval(() => turns++, 10);
    const lost = threads.run("names", endless);
    const refusal = expect(lost).rejects.toMatchObject({ code: "prompt_too_costly", status: 400 });
    expect(await threads.run("encode", encode("meanwhile"))).toHaveProperty("ids");
    await refusal;
    clearInterval(timer);
    expect(turns).toBeGreaterThan(5);
    expect(threads.givenUp).toBe(1);
    expect(await threads.run("encode", encode("afterwards"))).toHaveProperty("ids");
  }, 120_000);

  it("see numbers as Python's json reads them", async () => {
    const folder = mkdtempSync(join(tmpdir(), "prompts-"));
    cpSync(TOKENIZER, folder, { recursive: true });
    writeFileSync(join(folder, "chat_template.jinja"), "{{ a }} {{ b | tojson }}");
    const threads = new PromptPool({ dir: folder, hash, options: {} }, { timeout: 60 });
    pools.push(threads);
    // The last of equal keys counts; one in a value or a text does not.
    const text =
      '{"chat_template_kwargs":{"a":2},"x":"\\"chat_template_kwargs\\":{","y":{"chat_template_kwargs":{"a":3}},' +
      '"seed" : 9223372036854775807 ,"chat_template_kwargs" : {"a":1.0,"b":[1,-0.0,1e3,12345678901234567890,0.5]}}';
    const body = parseBody(Buffer.from(text)) as { seed: bigint; chat_template_kwargs: Record<string, unknown> };
    expect(body.seed).toBe(9223372036854775807n);
    const answer = await threads.run("chat", {
      ...{ messages: [], options: { variables: body.chat_template_kwargs }, addSpecialTokens: false, maxLength: 512 },
    });
    rmSync(folder, { recursive: true });
    const ids = "ids" in answer ? Array.from(answer.ids) : [];
    expect(tokenizer.decode(ids)).toBe("1.0 [1, -0.0, 1000.0, 12345678901234567890, 0.5]");
  }, 60_000);

  it.each([
    ["{% if %}", "CHAT_TEMPLATE_INVALID", "chat_template_invalid", "(line 1 of the template)"],
    ["{{ 'a' | random }}", "CHAT_TEMPLATE_UNSUPPORTED", "chat_template_unsupported", "the filter random"],
    ["{{ raise_exception('no') }}", "CHAT_TEMPLATE_FAILED", "chat_template_failed", "the chat template failed: no"],
    [
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "CHAT_TEMPLATE_FAILED",
      "chat_template_failed",
      "too many steps",
    ],
  ])(
    "by the template %s are refused with its fault",
    async (template, code, apiCode, words) => {
      const folder = mkdtempSync(join(tmpdir(), "prompts-"));
      cpSync(TOKENIZER, folder, { recursive: true });
      writeFileSync(join(folder, "chat_template.jinja"), template);
      const broken = Tokenizer.fromPretrained(folder);
      expect(broken.hasChatTemplate).toBe(true);
      const threads = new PromptPool({ dir: folder, hash: broken.hash, options: {} }, { timeout: 60 });
      pools.push(threads);
      const messages = [{ role: "user", content: "hi" }];
      const error = await threads
        .run("chat", { messages, options: {}, addSpecialTokens: false, maxLength: 512 })
        .catch((thrown) => thrown);
      expect(error).toMatchObject({ code, message: expect.stringContaining(words) });
      expect(toApiError(error, () => 1)).toMatchObject({ code: apiCode, status: 400 });
      rmSync(folder, { recursive: true });
    },
    60_000,
  );

  it("of a client that is gone are not begun", async () => {
    const threads = pool(60);
    const controller = new AbortController();
    const first = threads.run("encode", encode("x"));
    const waiting = threads.run("encode", encode("y"), controller.signal);
    const refusal = expect(waiting).rejects.toThrow("gone");
    controller.abort(new Error("gone"));
    await first;
    await refusal;
  }, 60_000);

  it("end with the pool, and a tokenizer that was replaced is not taken for the one at the start", async () => {
    const threads = pool(60);
    await threads.run("encode", encode("x"));
    const running = threads.run("names", endless);
    const refusal = expect(running).rejects.toMatchObject({ code: "draining" });
    await sleep(50);
    threads.close();
    await refusal;
    const other = new PromptPool({ dir, hash: "another", options }, { timeout: 60 });
    pools.push(other);
    await expect(other.run("encode", encode("x"))).rejects.toThrow(/is not the one that was loaded at the start/);
  }, 120_000);
});

describe("a server", () => {
  it("answers others while it reads a long prompt", async () => {
    await using served = await start(new ScriptedEngine({ model: { maxLength: 4_000_000 } }), { promptTimeout: 300 });
    expect((await served.post("/v1/completions", { prompt: "x", max_tokens: 1 })).status).toBe(200);
    const words = Array.from({ length: 200_000 }, (_, i) => `w${(i * 7919) % 100_003}`).join(" ");
    let isOver = false;
    const long = served.post("/tokenize", { prompt: words }).finally(() => {
      isOver = true;
    });
    let answered = 0;
    while (!isOver) {
      expect((await fetch(`${served.url}/health`)).status).toBe(200);
      answered++;
    }
    expect(answered).toBeGreaterThan(3);
    const { count, tokens } = await json(long);
    expect(count).toBe(tokens.length);
    expect(tokens.slice(0, 50)).toEqual(tokenizer.encode(words).slice(0, 50));
  }, 300_000);
});
