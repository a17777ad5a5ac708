import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { Tokenizer } from "../../lib/tokenizer/tokenizer.js";
import { TokenizerError } from "../../lib/tokenizer/tokenizer-error.js";

const root = mkdtempSync(join(tmpdir(), "diffcoder-hostile-tokenizer-"));
afterAll(() => rmSync(root, { recursive: true }));

let folders = 0;

/** What loading a folder whose tokenizer.json has this content ends in. */
function load(content: string): string {
  const dir = join(root, String(folders++));
  mkdirSync(dir);
  writeFileSync(join(dir, "tokenizer.json"), content);
  return outcome(dir);
}

function outcome(dir: string): string {
  try {
    Tokenizer.fromPretrained(dir);
    return "loaded";
  } catch (error) {
    if (error instanceof TokenizerError) return `${error.code} ${error.message}`;
    throw error;
  }
}

const bpe = { type: "BPE", vocab: { a: 0, b: 1, ab: 2 }, merges: [["a", "b"]] };
const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: false };
const json = (parts: object) => JSON.stringify({ version: "1.0", model: bpe, ...parts });
const split = (Regex: string) =>
  json({ pre_tokenizer: { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false } });

describe("a hostile tokenizer.json", () => {
  it.each([
    "(a+)+$",
    "(a+)+b",
    "(\\s*)*x",
    "(a|a)*b",
    "(a|aa)+b",
    "(?:a?){30}a{30}",
    "a?a?a?a?a?a?a?a?a?b",
    "a*a*b",
    "\\s*\\s*\\s*x",
    "\\s+$",
    "\\s+x",
    "[ab]*a[ab]*c",
    "(?=(a+)+b)",
    "(?<=a+)b",
    "(.*)(.*)(.*)x",
    ".*x",
    "((a{0,100}){0,100}){0,100}b",
    "a{1,100000}b",
  ])("whose pattern takes too long is refused: %s", (pattern) => {
    expect(load(split(pattern))).toMatch(/^TOKENIZER_UNSUPPORTED .*pre_tokenizer\.pattern: this regular expression/);
  });

  it("whose pattern is nested or long is refused", () => {
    expect(load(split(`${"(".repeat(2000)}a${")".repeat(2000)}`))).toMatch(/^TOKENIZER_UNSUPPORTED .*nested/);
    expect(load(split(`${"[".repeat(2000)}a${"]".repeat(2000)}`))).toMatch(/^TOKENIZER_UNSUPPORTED .*nested/);
    expect(load(split("a|".repeat(100_000)))).toMatch(/^TOKENIZER_UNSUPPORTED .*characters/);
  });

  it.each([
    "(a",
    "[a",
    "a)",
    "*a",
    "\\p{Nope}",
    "\\p{L",
    "[z-a]",
    "a{3,1}",
    "\\",
    "[\\",
    "(?",
    "(?<n>a)\\k<n>",
    "(a)\\1",
    "\\u12",
    "\\x{110000}",
  ])("whose pattern is broken or beyond what is known is refused: %s", (pattern) =>
    expect(load(split(pattern))).toMatch(/^TOKENIZER_UNSUPPORTED /),
  );

  it("whose patterns are taken does not hang on texts made against it", () => {
    const patterns = [
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
      "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
      "[ \\t]*[\\r\\n]+|[ \\t]{2,}|\\s+",
      '"[^"]*"',
    ];
    for (const [i, Regex] of patterns.entries()) {
      const dir = join(root, `taken-${i}`);
      mkdirSync(dir);
      writeFileSync(join(dir, "tokenizer.json"), split(Regex));
      const tokenizer = Tokenizer.fromPretrained(dir);
      // A walk over the rest from every character would take 10^11 steps and more.
      for (const text of [" ", " \n", "A", "Aa", '"', "\t x", "a ", "ǅ"]) {
        tokenizer.encode(`${text.repeat(200_000)}x`);
      }
    }
  }, 300_000);

  it("of nothing but brackets, or one long string, is an error", () => {
    expect(load("[".repeat(99_000_000))).toMatch(/^TOKENIZER_FILE_INVALID .*levels of nesting/);
    expect(load(`{"model":${'{"a":'.repeat(600)}1${"}".repeat(600)}}`)).toMatch(
      /^TOKENIZER_FILE_INVALID .*levels of nesting/,
    );
    expect(load(`"${"a".repeat(16_000_000)}`)).toMatch(/^TOKENIZER_FILE_INVALID /);
    expect(load(json({ model: { ...bpe, vocab: { ["a".repeat(16_000_000)]: 0 } } }))).toMatch(
      /^TOKENIZER_FILE_INVALID /,
    );
  }, 120_000);

  it("that is no file is an error and nothing waits for it", () => {
    const dir = join(root, "fifo");
    mkdirSync(dir);
    execFileSync("mkfifo", [join(dir, "tokenizer.json")]);
    expect(outcome(dir)).toMatch(/^TOKENIZER_FILE_INVALID .*/);
    const folder = join(root, "folder");
    mkdirSync(join(folder, "tokenizer.json"), { recursive: true });
    expect(outcome(folder)).toMatch(/^TOKENIZER_FILE_INVALID .*/);
  });

  it.each([
    ["a negative id", { vocab: { a: -1 } }, "INVALID"],
    ["an id beyond 32 bits", { vocab: { a: 2 ** 32 } }, "INVALID"],
    ["a fraction", { vocab: { a: 0.5 } }, "INVALID"],
    ["an id that would size huge arrays", { vocab: { a: 2 ** 31 } }, "UNSUPPORTED"],
    ["an id of two tokens", { vocab: { a: 0, b: 0, ab: 2 } }, "INVALID"],
    ["half a surrogate pair", { vocab: { "\ud800": 0 }, merges: [] }, "INVALID"],
    ["no vocabulary", { vocab: null }, "INVALID"],
    ["a list for a vocabulary", { vocab: [] }, "INVALID"],
    ["no merges", { merges: undefined }, "INVALID"],
    ["a merge of three", { merges: ["a b c"] }, "INVALID"],
    ["a merge of one", { merges: [["a"]] }, "INVALID"],
    ["a merge of numbers", { merges: [[1, 2]] }, "INVALID"],
    ["merges of both forms", { merges: ["a b", ["a", "b"]] }, "INVALID"],
    ["a merge of what is no token", { merges: ["a c"] }, "INVALID"],
    ["dropout", { dropout: 0.1 }, "UNSUPPORTED"],
    ["another model", { type: "Magic" }, "UNSUPPORTED"],
  ])("with %s in its model is an error", (_, change, code) => {
    expect(load(json({ model: { ...bpe, ...change } }))).toMatch(new RegExp(`^TOKENIZER_(FILE_)?${code} .*model`, "s"));
  });

  it.each([
    ["an added token without settings", { added_tokens: [{ id: 3, content: "c" }] }, "INVALID"],
    ["an added token with a negative id", { added_tokens: [{ id: -3, content: "c", ...flags }] }, "INVALID"],
    ["another version", { version: "2.0" }, "INVALID"],
    ["a number for a normalizer", { normalizer: 7 }, "INVALID"],
    ["a normalizer without a type", { normalizer: {} }, "INVALID"],
    ["settings of the wrong kind", { normalizer: { type: "Prepend", prepend: 7 } }, "INVALID"],
    ["a character that is two", { pre_tokenizer: { type: "CharDelimiterSplit", delimiter: "ab" } }, "INVALID"],
    ["a length of 0", { pre_tokenizer: { type: "FixedLength", length: 0 } }, "INVALID"],
    ["an unknown behaviour", { pre_tokenizer: { type: "Punctuation", behavior: "Magic" } }, "INVALID"],
    [
      "a template without its token",
      {
        post_processor: {
          type: "TemplateProcessing",
          single: [{ SpecialToken: { id: "toString", type_id: 0 } }],
          pair: [],
          special_tokens: {},
        },
      },
      "INVALID",
    ],
    ["an unknown decoder", { decoder: { type: "Magic" } }, "UNSUPPORTED"],
    [
      "a normalizer that is not taken",
      { normalizer: { type: "Precompiled", precompiled_charsmap: "AA==" } },
      "UNSUPPORTED",
    ],
  ])("with %s is an error", (_, change, code) => {
    expect(load(json(change))).toMatch(new RegExp(`^TOKENIZER_(FILE_)?${code} `));
  });

  it("may have names that objects have", () => {
    const content = `{"version":"1.0","model":{"type":"BPE","vocab":{"__proto__":0,"constructor":1,"_":2},"merges":[]}}`;
    expect(load(content)).toBe("loaded");
    const tokenizer = Tokenizer.fromPretrained(join(root, String(folders - 1)));
    expect([tokenizer.idToToken(0), tokenizer.tokenToId("constructor"), tokenizer.tokenToId("toString")]).toEqual([
      "__proto__",
      1,
      undefined,
    ]);
  });

  it("without a token for a character is an error where there is no unknown token either", () => {
    expect(load(json({ model: { ...bpe, unk_token: "<unk>" } }))).toBe("loaded");
    const tokenizer = Tokenizer.fromPretrained(join(root, String(folders - 1)));
    expect(() => tokenizer.encode("abc")).toThrow(/"c" has no token, and the unknown token "<unk>"/);
  });
});
