import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Engine } from "../../lib/engine/index.js";
import { TokenPlaces } from "../../lib/server/protocol/token-places.js";
import { Tokenizer } from "../../lib/tokenizer/index.js";
import { root, smallCheckpoint, TOKENIZER } from "../cli/support.js";
import { chunksOf, type Json, json, type Started, start } from "./support.js";

/** Small models whose every byte is a token, made to write a text that is known (see README.md there). */
const CASES = join(root, "..", "shared", "cases", "interop", "models");

const bytesOf = (entries: Json[]) => Buffer.from(entries.flatMap(({ bytes }) => bytes)).toString("utf8");

describe("where tokens are in a text", () => {
  const tokenizer = Tokenizer.fromPretrained(TOKENIZER);
  /** The token of each single byte. */
  const idOfByte = new Map<number, number>();
  for (let id = 0; id < tokenizer.vocabSize; id++) {
    const bytes = tokenizer.bytesOf(id);
    if (bytes.length === 1 && !idOfByte.has(bytes[0])) idOfByte.set(bytes[0], id);
  }

  it("a token begins in the character that its first byte is of", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 16 }), fc.boolean(), (text, inBytes) => {
        const bytes = Buffer.from(text, "utf8");
        const ids = inBytes ? [...bytes].map((byte) => idOfByte.get(byte) as number) : tokenizer.encode(text);
        // By byte, the number of the character it is of.
        const characters: number[] = [];
        [...bytes.toString("utf8")].forEach((character, i) => {
          for (const _ of Buffer.from(character, "utf8")) characters.push(i);
        });
        const places = new TokenPlaces(tokenizer, 5);
        const placed = ids.map((id) => places.place(id, true));
        let at = 0;
        const expected = placed.map((each) => {
          const offset = 5 + characters[at];
          at += each.bytes.length;
          return offset;
        });
        expect(placed.map(({ offset }) => offset)).toEqual(expected);
        expect(Buffer.from(placed.flatMap((each) => each.bytes)).equals(bytes)).toBe(true);
      }),
      { numRuns: 100 },
    );
  }, 300_000);

  it("also among bytes that are no UTF-8, which are shown as U+FFFD", () => {
    const byte = fc.oneof(fc.integer({ min: 0, max: 255 }), fc.constantFrom(0xe2, 0x82, 0xf0, 0x9f, 0x98, 0x80, 0x41));
    fc.assert(
      fc.property(fc.array(byte, { maxLength: 20 }), (bytes) => {
        const places = new TokenPlaces(tokenizer);
        const offsets = bytes.map((each) => places.place(idOfByte.get(each) as number).offset);
        const shown = [...Buffer.from(bytes).toString("utf8")];
        const isOrdered = offsets.every((each, i) => i === 0 || each === offsets[i - 1] || each === offsets[i - 1] + 1);
        const isShown = bytes.every((each, i) => each >= 0x80 || shown[offsets[i]] === String.fromCharCode(each));
        expect([isOrdered, isShown]).toEqual([true, true]);
        expect(offsets.at(-1) ?? -1).toBe(shown.length - 1);
      }),
      { numRuns: 300 },
    );
  });
});

describe("a tokenizer that puts bos before a text", () => {
  let folder: string;
  let engine: Engine;
  let served: Started;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "diffcoder-bos-"));
    await smallCheckpoint(folder);
    const path = join(folder, "tokenizer.json");
    const files = JSON.parse(readFileSync(path, "utf8"));
    const { id, content } = files.added_tokens[0];
    files.post_processor = {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: content, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 0 } }],
      special_tokens: { [content]: { id: content, ids: [id], tokens: [content] } },
    };
    writeFileSync(path, JSON.stringify(files));
    engine = await Engine.create({ model: folder });
    served = await start(engine);
  });
  afterAll(async () => {
    await served?.server.close({ drain: 0 });
    await engine?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  it("is scored with it, and offsets are those of the text, in which it is not", async () => {
    const prompt = "é😀 = 1\n";
    const body = { prompt, echo: true, max_tokens: 3, logprobs: 1, return_token_ids: true };
    const [choice] = (await json(served.post("/v1/completions", body))).choices;
    const { tokens, text_offset } = choice.logprobs;
    expect(choice.text.startsWith(prompt)).toBe(true);
    const ids: number[] = choice.token_ids;
    expect(ids.slice(0, -3)).toEqual(engine.tokenizer?.encode(prompt));
    expect(tokens).toHaveLength(ids.length);
    expect(text_offset.slice(0, 2)).toEqual([0, 0]);
    const bytes = ids.slice(1, -3).map((id) => Buffer.from(engine.tokenizer?.bytesOf(id) ?? []));
    bytes.forEach((_, i) => {
      const before = new TextDecoder().decode(Buffer.concat(bytes.slice(0, i)), { stream: true });
      expect(text_offset[i + 1]).toBe([...before].length);
    });
    expect(text_offset.at(-3)).toBe([...prompt].length);
    const chunks = await chunksOf(served.post("/v1/completions", { ...body, stream: true }));
    const streamed = chunks.flatMap(({ choices }) => choices.flatMap((each: Json) => each.logprobs?.text_offset ?? []));
    expect(streamed).toEqual(text_offset);
  });
});

describe.skipIf(!existsSync(join(CASES, "utf8")))("the cases beside the project (../shared/cases)", () => {
  let engine: Engine;
  let served: Started;
  beforeAll(async () => {
    engine = await Engine.create({ model: join(CASES, "utf8") });
    served = await start(engine);
  });
  afterAll(async () => {
    await served?.server.close({ drain: 0 });
    await engine?.close();
  });
  const dllm = { mode: "autoregressive" };
  const messages = [{ role: "user", content: "x" }];
  const chat = (body: object) => served.post("/v1/chat/completions", { messages, max_tokens: 8, ...body });

  it("bytes are the text in UTF-8, streamed or not", async () => {
    const body = { max_tokens: 16, logprobs: true, top_logprobs: 2, dllm };
    const [{ message, logprobs }] = (await json(chat(body))).choices;
    expect(message.content).toBe("é😀!ZY");
    expect(logprobs.content).toHaveLength(9);
    expect(bytesOf(logprobs.content)).toBe(message.content);
    for (const { bytes, top_logprobs } of logprobs.content) expect(top_logprobs[0].bytes).toEqual(bytes);
    const chunks = await chunksOf(chat({ ...body, stream: true }));
    const entries = chunks.flatMap(({ choices }) => choices.flatMap((each: Json) => each.logprobs?.content ?? []));
    expect(entries).toEqual(logprobs.content);
  });

  it("offsets are characters of the text, whatever is a part of one", async () => {
    const body = { prompt: ":", max_tokens: 16, logprobs: 1, dllm };
    const [{ text, logprobs }] = (await json(served.post("/v1/completions", body))).choices;
    expect(text).toBe("é😀!ZY");
    expect(logprobs.text_offset).toEqual([0, 0, 1, 1, 1, 1, 2, 3, 4]);
    const echoed = (await json(served.post("/v1/completions", { ...body, prompt: "é😀:", echo: true }))).choices[0];
    expect(echoed.logprobs.text_offset).toEqual([0, 0, 1, 1, 1, 1, 2, 3, 3, 4, 4, 4, 4, 5, 6, 7]);
    const chunks = await chunksOf(served.post("/v1/completions", { ...body, stream: true }));
    const offsets = chunks.flatMap(({ choices }) => choices.flatMap((each: Json) => each.logprobs?.text_offset ?? []));
    expect(offsets).toEqual(logprobs.text_offset);
  });

  it.each([
    ['"seed": -1'],
    ['"seed": 9223372036854775807'],
    ['"top_p": 0'],
    ['"messages": [{"role":"user","content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]}]'],
    [
      '"messages": [{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"refusal","refusal":"no"}]},' +
        '{"role":"user","content":"x"}]',
    ],
  ])("OpenAI's schema allows %s", async (fields) => {
    const body = `{"messages": [{"role":"user","content":"x"}], "max_tokens": 8, ${fields}}`;
    expect((await served.post("/v1/chat/completions", body)).status).toBe(200);
  });
});
