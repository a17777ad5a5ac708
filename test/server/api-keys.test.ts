import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { Server } from "../../lib/server/index.js";
import { ApiKeys } from "../../lib/server/operations/api-keys.js";
import { ScriptedEngine } from "./scripted-engine.js";
import { json, type Started, smallEngine, start } from "./support.js";

const folder = mkdtempSync(join(tmpdir(), "diffcoder-keys-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const path = join(folder, "keys");
const opens = (keys: ApiKeys, key: string) => {
  try {
    keys.check({ authorization: `Bearer ${key}` });
    return true;
  } catch {
    return false;
  }
};
function fromFile(text: string): ApiKeys {
  writeFileSync(path, text);
  return new ApiKeys({ keys: [], file: path, onReload: () => {} });
}

describe("a file of API keys", () => {
  it("keeps each key whole, whatever it is made of and however lines end", () => {
    const key = fc
      .stringMatching(/^[\x21-\x7e]{1,40}$/)
      .filter((text) => !text.startsWith("#"))
      .map((text) => (text.length < 3 ? `${text}#x` : text));
    const end = fc.constantFrom("\n", "\r\n", " \n", "\n\n# a comment\n");
    fc.assert(
      fc.property(fc.uniqueArray(key, { minLength: 1, maxLength: 5 }), end, fc.boolean(), (all, eol, bom) => {
        const keys = fromFile((bom ? "\uFEFF" : "") + all.join(eol) + eol);
        try {
          expect(keys.count).toBe(all.length);
          for (const each of all) {
            expect(opens(keys, each)).toBe(true);
            // Neither a part of it nor what precedes a "#" is let in.
            for (const part of [each.slice(0, -1), each.split("#")[0], `${each}x`]) {
              if (part !== "" && !all.includes(part)) expect(opens(keys, part)).toBe(false);
            }
          }
        } finally {
          keys.close();
        }
      }),
      { numRuns: 60, seed: 9 },
    );
  });

  it("is refused where a line holds more than a key, by its number and without the key", () => {
    for (const text of ["good\nfirst second\n", "good\nsecret # ours\n", "good\nschlüssel\n", "good\na\tb\n"]) {
      expect(() => fromFile(text)).toThrow(/keys, line 2: a key is visible ASCII/);
      expect(() => fromFile(text)).not.toThrow(/secret|second/);
    }
    for (const text of ["", "\n \r\n", "# only a comment\n"]) expect(() => fromFile(text)).toThrow(/holds no API key/);
  });
});

describe("keys as options", () => {
  it("may end with a new line, as variables that were read from files do", async () => {
    await using served = await start(new ScriptedEngine(), { apiKeys: ["first\n", " second\r\n"] });
    const status = async (key: string) =>
      (await fetch(`${served.url}/v1/models`, { headers: { authorization: `Bearer ${key}` } })).status;
    expect([await status("first"), await status("second"), await status("third")]).toEqual([200, 200, 401]);
  });

  it("are refused where they are empty or cannot be sent", () => {
    for (const key of ["", "\n", "two words", "schlüssel"]) {
      expect(() => Server.create(new ScriptedEngine(), { apiKeys: [key], logLevel: "silent" })).toThrow(
        /an API key is one or more visible ASCII/,
      );
    }
  });
});

describe("the prefix cache", () => {
  const prompt = "def f(x):\n    return x + 1\n".repeat(12);
  const cached = async ({ post }: Started, key: string, more: object = {}): Promise<number> => {
    const headers: Record<string, string> = key === "" ? {} : { authorization: `Bearer ${key}` };
    const response = await post("/v1/completions", { prompt, max_tokens: 1, ...more }, { headers });
    return (await json(response)).usage.prompt_tokens_details.cached_tokens;
  };

  it("is each API key's own, and each salt's", async () => {
    await using engine = await smallEngine();
    await using served = await start(engine, { apiKeys: ["a", "b"] });
    expect(await cached(served, "a")).toBe(0);
    const found = await cached(served, "a");
    expect(found).toBeGreaterThan(0);
    expect(await cached(served, "b")).toBe(0);
    expect(await cached(served, "b")).toBe(found);
    expect(await cached(served, "a", { cache_salt: "mine" })).toBe(0);
    expect(await cached(served, "a", { cache_salt: "mine" })).toBe(found);
    expect(await cached(served, "b", { cache_salt: "mine" })).toBe(0);
    expect(await cached(served, "a")).toBe(found);
  });

  it("is shared where that is wanted, and where there are no keys", async () => {
    await using engine = await smallEngine();
    await using open = await start(engine);
    expect(await cached(open, "", { cache_salt: "mine" })).toBe(0);
    expect(await cached(open, "")).toBe(0);
    const found = await cached(open, "");
    expect(found).toBeGreaterThan(0);
    await using shared = await start(engine, { apiKeys: ["a", "b"], sharedPrefixCache: true });
    expect([await cached(shared, "a"), await cached(shared, "b")]).toEqual([found, found]);
    await using apart = await start(engine, { apiKeys: ["a", "b"] });
    expect(await cached(apart, "a")).toBe(0);
  });
});

describe("the limit of tokens", () => {
  const limited = { maxTokensLimit: 4 };
  const edit = (start: number, end: number, more: object = {}) => ({
    prompt: Array(40).fill(70),
    dllm: { edit: { start, end } },
    ...more,
  });

  it.each([
    ["completions", "/v1/completions", { prompt: "x", max_tokens: 5 }, "max_tokens"],
    ["infilling", "/v1/completions", { prompt: "x", suffix: "y", max_tokens: 5 }, "max_tokens"],
    ["a fixed canvas", "/v1/completions", { prompt: "x", max_tokens: 5, dllm: { canvas: "fixed" } }, "max_tokens"],
    [
      "autoregressive",
      "/v1/completions",
      { prompt: "x", max_tokens: 5, dllm: { mode: "autoregressive" } },
      "max_tokens",
    ],
    ["several choices", "/v1/completions", { prompt: ["x", "y"], n: 2, max_tokens: 5 }, "max_tokens"],
    ["edits", "/v1/completions", edit(8, 13), "dllm.edit"],
    ["edits that say otherwise", "/v1/completions", edit(8, 13, { max_tokens: 1 }), "dllm.edit"],
    ["chat", "/v1/chat/completions", { messages: [{ role: "user", content: "x" }], max_tokens: 5 }, "max_tokens"],
    [
      "chat with an edit",
      "/v1/chat/completions",
      { messages: [{ role: "user", content: "x" }], dllm: { edit: { start: 0, end: 5 } } },
      "dllm.edit",
    ],
  ])("holds for %s", async (_, route, body, param) => {
    await using served = await start(new ScriptedEngine(), limited);
    const response = await served.post(route, body);
    expect([response.status, (await json(response)).error.param]).toEqual([400, param]);
  });

  it("is what requests get that ask for no number, and edits within it pass", async () => {
    await using engine = await smallEngine();
    await using served = await start(engine, limited);
    const tokens = async (route: string, body: object) =>
      (await json(served.post(route, body))).usage.completion_tokens;
    expect(await tokens("/v1/completions", { prompt: "x", ignore_eos: true })).toBe(4);
    expect(await tokens("/v1/completions", { prompt: "x", suffix: "y", ignore_eos: true })).toBe(4);
    expect(await tokens("/v1/completions", edit(8, 12))).toBe(4);
  });

  it("of nobody lets numbers into the metrics that spoil their sums", async () => {
    await using engine = await smallEngine();
    await using served = await start(engine);
    for (const body of [
      { prompt: "x", max_tokens: 2 ** 53 },
      { prompt: "x", max_tokens: 2 ** 53 - 1 },
      { prompt: "x", suffix: "y", max_tokens: 2 ** 53 - 1 },
      edit(8, 12, { max_tokens: 2 ** 53 - 1 }),
      edit(8, 2 ** 53 - 1),
      { prompt: "x", n: 2, max_tokens: 3 },
    ]) {
      await served.post("/v1/completions", body);
    }
    const text = await (await fetch(`${served.url}/metrics`)).text();
    expect(text).toMatch(/request_params_max_tokens_sum\S* 7$/m); // 4 of the edit, and 3
    expect(served.server.open).toBe(0);
  });
});
