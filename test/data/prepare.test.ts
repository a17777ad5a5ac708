import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { parseDataOptions, parseSftDataOptions, prepareData, prepareSftData } from "../../lib/data/index.js";
import { rejectionOf, temporaryFolder, thrownBy, tokenizer, writeTree } from "./helpers.js";

const root = temporaryFolder();
const cache = join(root, "cache");

describe("data options", () => {
  it("have defaults for all but the length", () => {
    const options = parseDataOptions({ seqLen: 128 });
    expect(options).toMatchObject({
      paths: "default",
      keepDocumentBoundaries: false,
      validationSplit: 0.02,
      seed: 0,
      shuffle: true,
    });
    expect(options.extensions).toBeUndefined(); // source code, and files of records
    expect(parseDataOptions({ seqLen: 8, fim: { rate: 0.5 } }).fim).toEqual({ rate: 0.5, format: "spm" });
  });

  it.each([
    [{}, /^DATA_OPTIONS data:[\s\S]*seqLen/],
    [{ seqLen: 1 }, /seqLen/],
    [{ seqLen: 8, seqlenn: 9 }, /\n {2}seqlenn: unknown key \(did you mean seqLen\?\); allowed: /],
    [{ seqLen: 8, paths: [] }, /paths/],
    [{ seqLen: 8, keepDocumentBoundaries: "yes" }, /keepDocumentBoundaries: expected boolean, got "yes"/],
    [{ seqLen: 8, extensions: ["py"] }, /extensions\[0\]: .*with its dot/],
    [{ seqLen: 8, fim: { rate: 2 } }, /fim\.rate/],
    [{ seqLen: 8, validationSplit: 0.9 }, /validationSplit/],
    [null, /data/],
  ])("name what is wrong: %j", (value, message) => {
    expect(thrownBy(() => parseDataOptions(value))).toMatch(message);
  });
});

describe("prepareData", () => {
  it("goes from folders to batches, and finds its tokens again", async () => {
    const tree = join(root, "tree");
    for (let i = 0; i < 30; i++) {
      writeTree(tree, { [`package${i}/main.py`]: `def f${i}(x):\n    return x * ${i}\n`.repeat(10) });
    }
    const options = {
      paths: [tree],
      seqLen: 32,
      keepDocumentBoundaries: true,
      validationSplit: 0.1,
      cache,
      seed: 4,
    } as const;
    const first = await prepareData(options, tokenizer);
    expect(first.store.fromCache).toBe(false);
    expect(first.train.numSamples).toBe(Math.floor(first.store.train.numTokens / 32));
    expect(first.summary).toMatchObject({ documents: 30, skipped: {} });
    expect(first.heldOut?.numSamples).toBeGreaterThan(0);
    const batch = first.loader.batchAt(0, 4);
    expect(batch).toMatchObject({ batch: 4, seqLen: 32, indices: [0, 1, 2, 3] });
    expect(batch.documents?.at(-1)).toBe(128);
    const again = await prepareData(options, tokenizer);
    expect(again.store.fromCache).toBe(true);
    expect(again.loader.batchAt(0, 4)).toEqual(batch);
    // Another length reads the same tokens; another seed makes another split.
    expect((await prepareData({ ...options, seqLen: 16 }, tokenizer)).store.fromCache).toBe(true);
    expect((await prepareData({ ...options, seed: 5 }, tokenizer)).store.fromCache).toBe(false);
    const small = { ...options, seqLen: 100_000 };
    expect(await rejectionOf(prepareData(small, tokenizer))).toMatch(/^DATA_TOO_SMALL \d+ tokens in \d+ documents/);
    expect(await rejectionOf(prepareData({ ...options, paths: [join(root, "nowhere")] }, tokenizer))).toMatch(
      /^DATA_NOT/,
    );
  });

  it("finds code on this machine by itself", async () => {
    const prepared = await prepareData({ seqLen: 256, maxBytes: 200_000, cache }, tokenizer);
    expect(prepared.summary.bytes).toBeGreaterThan(390_000);
    expect(prepared.train.numSamples).toBeGreaterThan(200);
    expect(prepared.store.heldOut.numBytes).toBeGreaterThan(1000);
    // Code, not noise: the tokenizer makes about three bytes a token of it.
    expect(prepared.store.train.numBytes / prepared.store.train.numTokens).toBeGreaterThan(2.5);
  });
});

describe("prepareSftData", () => {
  it("goes from files to batches", async () => {
    const records = [
      { prompt: "one plus one\n", answer: "2" },
      {
        messages: [
          { role: "user", content: "q" },
          { role: "assistant", content: "a" },
        ],
      },
    ];
    writeTree(root, { "sft.jsonl": records.map((record) => JSON.stringify(record)).join("\n") });
    const { train, loader, summary } = await prepareSftData(
      { paths: [join(root, "sft.jsonl")], seqLen: 24, packing: "sequential" },
      tokenizer,
    );
    expect(summary).toMatchObject({ records: 2, samples: 2, skipped: {} });
    const batch = loader.batchAt(0, 2);
    expect(batch.lossMask?.reduce((sum, flag) => sum + flag, 0)).toBeGreaterThanOrEqual(2 + 1 + 1);
    expect(train.seqLen).toBe(24);
  });

  it("names what is wrong", () => {
    expect(thrownBy(() => parseSftDataOptions({ seqLen: 8 }, "stages[3].data"))).toMatch(
      /^DATA_OPTIONS stages\[3\]\.data:\n {2}paths: missing/,
    );
    expect(thrownBy(() => parseSftDataOptions({ paths: ["x"], seqLen: 8, eos: [1] }))).toMatch(/eos/);
  });
});
