import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ChatMessage } from "../../lib/tokenizer/chat-template.js";
import { Tokenizer } from "../../lib/tokenizer/tokenizer.js";
import { anyText } from "../data/helpers.js";

interface Fixture {
  vocabSize: number;
  special?: Record<string, number | null>;
  cases: { text: string; ids: number[]; full?: number[]; decoded?: string; skipped?: string }[];
  broken: { ids: number[]; decoded: string }[];
  chats?: { messages: ChatMessage[]; addGenerationPrompt: boolean; text: string; ids: number[] }[];
}

const path = (name: string) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const read = (name: string) => JSON.parse(readFileSync(path(`fixtures/tokenizer/${name}`), "utf8")) as Fixture;
const ASSET = path("../assets/tokenizer");
const KINDS = ["gpt2", "llama3", "qwen", "deepseek", "llama2"] as const;

describe.each(["code", ...KINDS])("%s agrees with Python", (kind) => {
  const fixture = read(kind === "code" ? "code.json" : `${kind}/cases.json`);
  const tokenizer = Tokenizer.fromPretrained(kind === "code" ? ASSET : path(`fixtures/tokenizer/${kind}`));

  it("encodes", () => {
    expect(tokenizer.vocabSize).toBe(fixture.vocabSize);
    for (const { text, ids, full } of fixture.cases) {
      expect(tokenizer.encode(text, { addSpecialTokens: false }), JSON.stringify(text)).toEqual(ids);
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(full ?? ids);
      expect([...tokenizer.encodeInt32(text)]).toEqual(full ?? ids);
    }
  });

  it("decodes, special tokens kept and skipped", () => {
    for (const { text, ids, decoded, skipped } of fixture.cases) {
      const all = decoded ?? text;
      expect(tokenizer.decode(ids), JSON.stringify(text)).toBe(all);
      expect(tokenizer.decode(ids, { skipSpecialTokens: true }), JSON.stringify(text)).toBe(skipped ?? all);
    }
    for (const { ids, decoded } of fixture.broken) expect(tokenizer.decode(ids), ids.join()).toBe(decoded);
  });

  it("streams what it decodes, and never half a character", () => {
    const some = [...fixture.cases.map((one) => one.ids), ...fixture.broken.map((one) => one.ids)];
    for (const ids of some) {
      for (const skipSpecialTokens of [true, false]) {
        const stream = tokenizer.stream({ skipSpecialTokens });
        let text = "";
        for (const id of ids) {
          const piece = stream.push(id);
          expect(piece).not.toMatch(/\p{Surrogate}/u);
          text += piece;
        }
        text += stream.flush();
        expect(text).toBe(tokenizer.decode(ids, { skipSpecialTokens }));
      }
    }
  });

  it("counts bytes", () => {
    const lengths = tokenizer.byteLengths();
    for (const { text, ids, skipped, decoded } of fixture.cases) {
      if (kind === "llama2") continue; // a space is put in front of the text
      const bytes = ids.reduce((sum, id) => sum + lengths[id], 0);
      expect(bytes, JSON.stringify(text)).toBe(Buffer.byteLength(skipped ?? decoded ?? text));
    }
  });
});

describe.each(["code", "qwen"])("%s agrees with transformers", (kind) => {
  const fixture = read(kind === "code" ? "code.json" : `${kind}/cases.json`);
  const tokenizer = Tokenizer.fromPretrained(kind === "code" ? ASSET : path(`fixtures/tokenizer/${kind}`));

  it("on conversations and special tokens", () => {
    expect(fixture.chats?.length).toBeGreaterThan(0);
    for (const { messages, addGenerationPrompt, text, ids } of fixture.chats ?? []) {
      expect(tokenizer.chatTemplate.render(messages, { addGenerationPrompt })).toBe(text);
      expect(tokenizer.encodeChat(messages, { addGenerationPrompt })).toEqual(ids);
    }
    const { bosId, eosId, padId, maskId } = tokenizer;
    for (const [role, id] of Object.entries({ bos: bosId, eos: eosId, pad: padId, mask: maskId })) {
      expect(id ?? null, role).toBe(fixture.special?.[role]);
    }
  });
});

describe.each(["code", "gpt2", "llama3", "qwen", "deepseek"])("white space for %s", (kind) => {
  const tokenizer = Tokenizer.fromPretrained(kind === "code" ? ASSET : path(`fixtures/tokenizer/${kind}`));

  it("gives Rust's ids where JavaScript's white space is another", () => {
    // tokenizers 0.23: Tokenizer.from_file(...).encode(text, add_special_tokens=False).ids
    const [nextLine, byteOrderMark] = {
      code: ["273 142 243", "273 187 135 139"],
      gpt2: ["259 127 228", "273 404 120 124"],
      llama3: ["258 126 227", "272 405 119 123"],
      qwen: ["258 126 227", "272 405 119 123"],
      deepseek: ["258 126 227", "258 171 119 123"],
    }[kind] as string[];
    const idsOf = (text: string) => tokenizer.encode(text, { addSpecialTokens: false }).join(" ");
    expect([idsOf("    \u0085"), idsOf("    \ufeff")]).toEqual([nextLine, byteOrderMark]);
  });
});

describe("the quickstart's tokenizer", () => {
  const tokenizer = Tokenizer.fromPretrained(ASSET);

  it("has Seed-Coder's special tokens and a small file", () => {
    expect(tokenizer).toMatchObject({ bosId: 0, padId: 1, eosId: 2, maskId: 5, vocabSize: 4096, eosIds: [2] });
    expect(tokenizer.idToToken(5)).toBe("<[MASK_TOKEN]>");
    expect(tokenizer.fim).toEqual({ suffix: 6, prefix: 7, middle: 8 });
    expect(tokenizer.require("mask")).toBe(5);
    expect(statSync(join(ASSET, "tokenizer.json")).size).toBeLessThan(300_000);
  });

  it("gives any Unicode text back", () => {
    const mixed = fc
      .array(fc.oneof(anyText(60), fc.constantFrom("    ", "\n", "<[MASK_TOKEN]>", "<[", "return ")))
      .map((parts) => parts.join(""));
    fc.assert(
      fc.property(mixed, fc.boolean(), (given, parseSpecialTokens) => {
        const ids = tokenizer.encode(given, { parseSpecialTokens });
        expect(tokenizer.decode(ids)).toBe(given);
        expect(ids.every((id) => id >= 0 && id < tokenizer.vocabSize)).toBe(true);
      }),
      { numRuns: 300 },
    );
    expect(tokenizer.decode(tokenizer.encode("a\ud800b"))).toBe("a\ufffdb");
  });

  it("reads special tokens in a text only when asked to", () => {
    const text = "x = '<[MASK_TOKEN]><[end▁of▁sentence]>'";
    expect(tokenizer.encode(text)).toContain(5);
    const plain = tokenizer.encode(text, { parseSpecialTokens: false });
    expect(plain.filter((id) => tokenizer.isSpecial(id))).toEqual([]);
    expect(tokenizer.decode(plain, { skipSpecialTokens: true })).toBe(text);
  });

  it("cuts a prompt like the start of a document", () => {
    const document = "def area(r):\n    if r < 0:\n        raise ValueError(r)\n    return 3.14 * r ** 2\n";
    for (const end of ["def area(r):\n", "def area(r):\n    ", "def area(r):\n    if r < 0:\n        "]) {
      const prompt = tokenizer.encode(end);
      expect(tokenizer.encode(document).slice(0, prompt.length)).toEqual(prompt);
    }
    expect(tokenizer.encode("        ")).toHaveLength(1);
    expect(tokenizer.encode("2026").map((id) => tokenizer.idToToken(id))).toEqual(["2", "0", "2", "6"]);
  });

  it("marks the answers of a conversation", () => {
    const messages = [
      { role: "system", content: "s" },
      { role: "user", content: "q1" },
      { role: "assistant", content: "a1" },
      { role: "user", content: "q2" },
      { role: "assistant", content: "a2" },
    ];
    const segments = tokenizer.chatTemplate.segments(messages);
    expect(segments.map((one) => one.isAnswer)).toEqual([false, true, false, true]);
    expect(segments.filter((one) => one.isAnswer).map((one) => one.text)).toEqual([
      "a1<[end▁of▁sentence]>",
      "a2<[end▁of▁sentence]>",
    ]);
    expect(segments.map((one) => one.text).join("")).toBe(tokenizer.chatTemplate.render(messages));
    expect(() => tokenizer.chatTemplate.render([{ role: "robot", content: "" }])).toThrow(/unknown role: robot/);
  });
});

describe("special tokens", () => {
  it("are found in other families", () => {
    const qwen = Tokenizer.fromPretrained(path("fixtures/tokenizer/qwen"));
    expect(qwen.idToToken(qwen.require("eos"))).toBe("<|im_end|>");
    expect(qwen.idToToken(qwen.require("pad"))).toBe("<|endoftext|>");
    expect(qwen.idToToken(qwen.fim?.suffix ?? -1)).toBe("<|fim_suffix|>");
    const deepseek = Tokenizer.fromPretrained(path("fixtures/tokenizer/deepseek"));
    expect(deepseek.idToToken(deepseek.require("bos"))).toBe("<｜begin▁of▁sentence｜>");
    expect(deepseek.fim).toBeUndefined();
  });

  it("can be chosen", () => {
    const dir = path("fixtures/tokenizer/qwen");
    expect(() => Tokenizer.fromPretrained(dir).require("mask")).toThrow(/no mask token.*specialTokens: \{ mask/s);
    const byName = Tokenizer.fromPretrained(dir, { specialTokens: { mask: "<|fim_pad|>", eos: "<|endoftext|>" } });
    expect(byName.idToToken(byName.require("mask"))).toBe("<|fim_pad|>");
    expect(byName.eosIds).toEqual([byName.tokenToId("<|endoftext|>")]);
    expect(Tokenizer.fromPretrained(dir, { specialTokens: { mask: 9999 } }).maskId).toBe(9999);
    expect(() => Tokenizer.fromPretrained(dir, { specialTokens: { mask: "<nope>" } })).toThrow(/"<nope>" is not in/);
  });
});

describe("files", () => {
  let dir = "";
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), "tokenizer-"));
  });
  afterAll(() => rmSync(dir, { recursive: true }));

  const folder = (name: string, change: (to: string) => void) => {
    const to = join(dir, name);
    cpSync(ASSET, to, { recursive: true });
    change(to);
    return to;
  };
  const codeOf = (run: () => unknown) => {
    try {
      run();
    } catch (error) {
      return `${(error as { code?: string }).code} ${(error as Error).message}`;
    }
    return "no error";
  };

  it("are copied by save, and the copy is the same tokenizer", () => {
    const to = join(dir, "made", "copy");
    const tokenizer = Tokenizer.fromPretrained(ASSET);
    tokenizer.save(to);
    const copy = Tokenizer.fromPretrained(to);
    expect(copy.hash).toBe(tokenizer.hash);
    expect(copy.encode("let x = 1;\n")).toEqual(tokenizer.encode("let x = 1;\n"));
    expect(copy.chatTemplate.source).toBe(tokenizer.chatTemplate.source);
  });

  it("give clear errors", () => {
    expect(codeOf(() => Tokenizer.fromPretrained(join(dir, "none")))).toMatch(
      /^TOKENIZER_FILE_MISSING .*none does not exist/,
    );
    mkdirSync(join(dir, "empty"));
    expect(codeOf(() => Tokenizer.fromPretrained(join(dir, "empty")))).toMatch(
      /MISSING .*empty.* has no tokenizer.json/,
    );
    const torn = folder("torn", (to) => {
      const whole = readFileSync(join(to, "tokenizer.json"), "utf8");
      writeFileSync(join(to, "tokenizer.json"), whole.slice(0, 5000));
    });
    expect(codeOf(() => Tokenizer.fromPretrained(torn))).toMatch(
      /^TOKENIZER_FILE_INVALID .*torn.tokenizer.json: invalid JSON/,
    );
    const strange = folder("strange", (to) =>
      writeFileSync(join(to, "tokenizer.json"), '{"model": {"vocab": {"a": "b"}, "merges": []}}'),
    );
    expect(codeOf(() => Tokenizer.fromPretrained(strange))).toMatch(/INVALID .*strange.*model\.vocab/s);
    const list = folder("list", (to) => writeFileSync(join(to, "tokenizer_config.json"), "[]"));
    expect(codeOf(() => Tokenizer.fromPretrained(list))).toMatch(/INVALID .*tokenizer_config.json: not a JSON object/);
    const unknown = folder("unknown", (to) => {
      const json = JSON.parse(readFileSync(join(to, "tokenizer.json"), "utf8"));
      writeFileSync(join(to, "tokenizer.json"), JSON.stringify({ ...json, pre_tokenizer: { type: "Magic" } }));
    });
    expect(codeOf(() => Tokenizer.fromPretrained(unknown))).toMatch(/^TOKENIZER_UNSUPPORTED .*Magic/);
    const silent = folder("silent", (to) => writeFileSync(join(to, "tokenizer_config.json"), "{}"));
    expect(codeOf(() => Tokenizer.fromPretrained(silent).chatTemplate)).toMatch(/^CHAT_TEMPLATE_MISSING/);
    const wrong = folder("wrong", (to) => writeFileSync(join(to, "chat_template.jinja"), "{% for %}"));
    expect(codeOf(() => Tokenizer.fromPretrained(wrong).chatTemplate)).toMatch(/^CHAT_TEMPLATE_INVALID/);
    expect(codeOf(() => Tokenizer.fromPretrained(ASSET).decode([1.5]))).toMatch(/^TOKENIZER_ID/);
  });

  it("may add ids: generation_config.json's eos, tokenizer_config.json's added tokens", () => {
    const more = folder("more", (to) => {
      writeFileSync(join(to, "generation_config.json"), '{"eos_token_id": [2, 11], "mask_token_id": 12}');
      const config = JSON.parse(readFileSync(join(to, "tokenizer_config.json"), "utf8"));
      const { mask_token: _, ...rest } = config;
      const added_tokens_decoder = { "4096": { content: "<tool>", special: false } };
      writeFileSync(join(to, "tokenizer_config.json"), JSON.stringify({ ...rest, added_tokens_decoder }));
      writeFileSync(join(to, "special_tokens_map.json"), "{}");
    });
    const tokenizer = Tokenizer.fromPretrained(more);
    expect(tokenizer.eosIds).toEqual([2, 11]);
    expect(tokenizer.maskId).toBe(12);
    expect(tokenizer.encode("a<tool>")).toEqual([...tokenizer.encode("a"), 4096]);
    expect(tokenizer.hash).not.toBe(Tokenizer.fromPretrained(ASSET).hash);
  });
});
