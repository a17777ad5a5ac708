import { writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { collate, packBestFit, packSequentially, SftDataset, type SftOptions } from "../../lib/data/index.js";
import { checkBatch } from "../../lib/diffusion/batch.js";
import { Tokenizer } from "../../lib/tokenizer/tokenizer.js";
import { rejectionOf, temporaryFolder, thrownBy, tokenizer } from "./helpers.js";

const EOS = 2;
const PAD = 1;
const make = (values: unknown[], options: Partial<SftOptions> = {}) =>
  new SftDataset(
    values.map((value, i) => ({ name: `test#${i + 1}`, value })),
    { tokenizer, seqLen: 64, ...options },
  );
const pair = (i: number) => ({ prompt: `add ${i} and ${i}\n`, answer: `return ${2 * i}` });

/** What the mask says: the text of every run of answer tokens, and of the others. */
function runs(tokens: Int32Array, mask: Uint8Array | undefined): { answer: boolean; text: string }[] {
  const out: { answer: boolean; ids: number[] }[] = [];
  tokens.forEach((id, i) => {
    const answer = mask?.[i] === 1;
    if (out.at(-1)?.answer !== answer) out.push({ answer, ids: [] });
    out.at(-1)?.ids.push(id);
  });
  return out.map(({ answer, ids }) => ({ answer, text: tokenizer.decode(ids) }));
}

describe("SftDataset", () => {
  it("marks the answer and its eos, and nothing else", () => {
    const { tokens, lossMask, starts } = make([pair(3)], { eos: [2, 2] }).sample(0);
    const [prompt, answer, padding] = runs(tokens, lossMask);
    expect(prompt).toEqual({ answer: false, text: "add 3 and 3\n" });
    expect(answer).toEqual({ answer: true, text: `return 6${"<[end▁of▁sentence]>".repeat(2)}` });
    expect(padding).toMatchObject({ answer: false, text: expect.stringMatching(/^(<\[PAD▁TOKEN\]>)+$/) });
    const end = lossMask?.lastIndexOf(1) ?? 0;
    expect(starts).toEqual([0, end + 1]);
    expect([...tokens.slice(end + 1)].every((id) => id === PAD)).toBe(true);
  });

  it("marks every answer of a conversation and counts the template's eos among the 1 to 4", () => {
    const messages = [
      { role: "system", content: "s" },
      { role: "user", content: "one" },
      { role: "assistant", content: "two" },
      { role: "user", content: "three" },
      { role: "assistant", content: "four" },
    ];
    const dataset = make([{ messages, source: "kept out" }], { eos: [3, 3] });
    const { tokens, lossMask } = dataset.sample(0);
    const answers = runs(tokens, lossMask).filter((run) => run.answer);
    expect(answers.map((run) => run.text)).toEqual([
      "two<[end▁of▁sentence]>",
      `four${"<[end▁of▁sentence]>".repeat(3)}`,
    ]);
    const text = tokenizer.chatTemplate.render(messages);
    const ids = tokenizer.encode(text);
    expect([...tokens.slice(0, ids.length)]).toEqual(ids);
    expect(dataset.summary).toMatchObject({ records: 1, samples: 1, rows: 1, tokens: ids.length + 2 });
  });

  it("puts 1 to 4 eos after a sample, each as often, as a function of (seed, index)", () => {
    const values = Array.from({ length: 2000 }, () => pair(1));
    const counts = (options: Partial<SftOptions>) => {
      const dataset = make(values, { packing: "sequential", seqLen: 16, ...options });
      return Array.from({ length: dataset.numSamples }, (_, i) => {
        const { tokens } = dataset.sample(i);
        return tokens.filter((id) => id === EOS).length;
      });
    };
    const drawn = counts({ seed: 5 });
    expect(drawn).toHaveLength(2000); // 16 tokens hold one of them
    for (const count of [1, 2, 3, 4]) {
      const share = drawn.filter((one) => one === count).length / 2000;
      expect(Math.abs(share - 0.25)).toBeLessThan(0.05);
    }
    expect(counts({ seed: 5 })).toEqual(drawn);
    expect(counts({ seed: 6 })).not.toEqual(drawn);
    values.push(pair(1));
    expect(counts({ seed: 5 }).slice(0, 2000)).toEqual(drawn);
  });

  it.each(["best-fit", "sequential"] as const)("keeps every sample whole (%s)", (packing) => {
    const values = Array.from({ length: 50 }, (_, i) => ({
      prompt: `p${i}:`,
      answer: ` ${"x = 1\n".repeat(i % 9)}end`,
    }));
    const dataset = make(values, { packing, keepDocumentBoundaries: true });
    const found: string[] = [];
    for (let row = 0; row < dataset.numSamples; row++) {
      const { tokens, starts = [] } = dataset.sample(row);
      for (const [i, start] of starts.entries()) {
        const ids = tokens.slice(start, starts[i + 1]);
        if (ids[0] !== PAD) found.push(tokenizer.decode(ids, { skipSpecialTokens: true }));
      }
    }
    const expected = values.map(({ prompt, answer }) => prompt + answer);
    if (packing === "sequential") expect(found).toEqual(expected);
    expect(found.sort()).toEqual(expected.sort());
    const rows = Array.from({ length: dataset.numSamples }, (_, i) => i);
    const batch = collate(dataset, rows, rows);
    checkBatch(batch);
    expect(batch.lossMask?.reduce((sum, flag) => sum + flag, 0)).toBe(dataset.summary.answerTokens);
    expect(make(values, { packing, keepDocumentBoundaries: false }).sample(0).starts).toBeUndefined();
    expect(make(values, { packing }).hash).toBe(dataset.hash);
    expect(make(values.slice(1), { packing }).hash).not.toBe(dataset.hash);
  });

  it("cuts what is too long and counts it; leaves out what has no answer", () => {
    const long = { prompt: "p", answer: "y = 2\n".repeat(100) };
    const values = [pair(0), long, { prompt: "z ".repeat(200), answer: "x" }, { prompt: "p", answer: "" }, null, {}];
    const bad = [{ messages: [] }, { messages: [{ role: "user" }] }, { messages: [{ role: "user", content: "q" }] }];
    const refused = {
      messages: [
        { role: "robot", content: "x" },
        { role: "assistant", content: "y" },
      ],
    };
    const dataset = make([...values, ...bad, refused]);
    expect(dataset.summary).toMatchObject({
      records: 10,
      samples: 2,
      truncated: 1,
      skipped: { "prompt too long": 1, "no answer": 2, "bad record": 4, "refused by the chat template": 1 },
    });
    const { examples } = dataset.summary;
    expect(examples["bad record"]?.[0]).toBe("test#5: not a JSON object in UTF-8");
    expect(examples["bad record"]?.[1]).toMatch(/^test#6: it has neither messages nor conversations nor prompt/);
    expect(examples["refused by the chat template"]?.[0]).toMatch(/unknown role: robot/);
    const whole = Array.from({ length: dataset.numSamples }, (_, i) => dataset.sample(i)).find(
      (one) => one.tokens[63] !== PAD,
    );
    expect(whole?.lossMask?.[63]).toBe(1);
  });

  it("reads files, under several names for prompt and answer", async () => {
    const root = temporaryFolder();
    const lines = [
      '{"instruction": "a", "output": "b"}',
      "",
      "   ",
      "{torn",
      '{"prompt": "c", "completion": "d"}',
      '{"prompt": "e"}',
    ];
    writeFileSync(join(root, "x.jsonl"), lines.join("\n"));
    writeFileSync(
      join(root, "y.jsonl"),
      Buffer.concat([Buffer.from('{"prompt":"'), Buffer.of(0xff), Buffer.from('"}')]),
    );
    const dataset = await SftDataset.load([root], { tokenizer, seqLen: 32 });
    expect(dataset.summary).toMatchObject({ records: 5, samples: 2, skipped: { "bad record": 3 } });
    expect(dataset.summary.examples["bad record"]?.[0]).toMatch(/^x\.jsonl#4/);
    const options = { tokenizer, seqLen: 32 };
    expect(await rejectionOf(SftDataset.load([join(root, "none")], options))).toMatch(/^DATA_NOT_FOUND/);
    expect(await rejectionOf(SftDataset.load([temporaryFolder()], options))).toMatch(/^DATA_EMPTY no file of records/);
  });

  it("refuses what cannot work, with the reason", () => {
    expect(thrownBy(() => make([{ prompt: "p" }]))).toMatch(
      /^DATA_EMPTY no sample to train on in 1 records: 1 bad record/,
    );
    expect(thrownBy(() => make([pair(1)], { eos: [3, 2] }))).toMatch(/^DATA_OPTIONS eos/);
    expect(thrownBy(() => make([pair(1)], { seqLen: 1 }))).toMatch(/^DATA_OPTIONS/);
    expect(thrownBy(() => make([pair(1)]).sample(1))).toMatch(/^DATA_RANGE/);
    const gpt2 = Tokenizer.fromPretrained(join(import.meta.dirname, "../fixtures/tokenizer/gpt2"));
    const chat = {
      messages: [
        { role: "user", content: "q" },
        { role: "assistant", content: "a" },
      ],
    };
    expect(thrownBy(() => make([chat], { tokenizer: gpt2 }))).toMatch(/^CHAT_TEMPLATE_MISSING/);
  });
});

describe("packing into bins", () => {
  it("puts each item into one bin and overfills none", () => {
    const lengths = fc.array(fc.integer({ min: 1, max: 70 }), { maxLength: 200 });
    fc.assert(
      fc.property(lengths, (given) => {
        for (const pack of [packBestFit, packSequentially]) {
          const bins = pack(given, 70);
          expect(bins.flat().sort((a, b) => a - b)).toEqual(given.map((_, i) => i));
          for (const bin of bins) expect(bin.reduce((sum, item) => sum + given[item], 0)).toBeLessThanOrEqual(70);
        }
        // Best fit decreasing needs at most 11/9 of the bins there must be, and one.
        const least = Math.ceil(given.reduce((sum, length) => sum + length, 0) / 70);
        const atLeast = Math.max(least, given.filter((length) => length > 35).length);
        expect(packBestFit(given, 70).length).toBeLessThanOrEqual(Math.max(packSequentially(given, 70).length, 0) + 1);
        if (atLeast > 0) expect(packBestFit(given, 70).length).toBeLessThanOrEqual((11 / 9) * atLeast * 1.5 + 1);
      }),
    );
  });

  it("agrees with the plain search for the tightest bin", () => {
    const lengths = fc.array(fc.integer({ min: 1, max: 100 }), { maxLength: 80 });
    fc.assert(
      fc.property(lengths, (given) => {
        const rooms: number[] = [];
        for (const length of [...given].sort((a, b) => b - a)) {
          let best = -1;
          for (let bin = 0; bin < rooms.length; bin++) {
            if (rooms[bin] >= length && (best < 0 || rooms[bin] < rooms[best])) best = bin;
          }
          if (best < 0) rooms.push(100 - length);
          else rooms[best] -= length;
        }
        const left = packBestFit(given, 100).map((bin) => 100 - bin.reduce((sum, item) => sum + given[item], 0));
        expect(left.sort((a, b) => a - b)).toEqual(rooms.sort((a, b) => a - b));
      }),
    );
  });

  it("is quick for many items", () => {
    const lengths = Array.from({ length: 200_000 }, (_, i) => 1 + ((i * 7919) % 8192));
    const started = performance.now();
    const bins = packBestFit(lengths, 8192);
    expect(performance.now() - started).toBeLessThan(5000);
    expect(bins.length).toBeLessThan(1.01 * (lengths.reduce((a, b) => a + b) / 8192) + 1);
  });
});
