import { describe, expect, it } from "vitest";
import { PagedKVCache } from "../../lib/engine/paged-kv-cache.js";
import type { PassPart } from "../../lib/engine/pass/pass.js";
import { type RowParams, type SamplingRow, sampleRows } from "../../lib/engine/sample.js";
import { gumbelStream, sampleToken } from "../../lib/engine/sample-token.js";
import * as torch from "../../lib/torch/index.js";
import { randomPrompt, sharpCoder } from "./support.js";

const plain: RowParams = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  seed: 0,
  logprobs: 0,
  entropy: false,
  forbidMask: false,
};

function randomLogits(seed: number, n: number, v: number): torch.Tensor {
  using generator = new torch.Generator({ seed });
  return torch.scope(() => torch.randn([n, v], { generator }).mul(3));
}

describe("the operator choose_tokens", () => {
  const settings: Partial<RowParams>[] = [
    {},
    { temperature: 1 },
    { temperature: 0.5, topK: 40 },
    { temperature: 1.5, topP: 0.9 },
    { temperature: 1, minP: 0.05 },
    { temperature: 2, topK: 300, topP: 0.7, minP: 0.001 },
    { temperature: 1, topK: 1 },
    { temperature: 1, topP: 1e-9 },
    { temperature: 100 },
  ];

  it.each([1, 2, 37, 1000, 4096])("equals sampleToken over %i tokens, whatever the settings", (v) => {
    const n = 45;
    using logits = randomLogits(v, n, v);
    const rows = Array.from({ length: n }, (_, i): SamplingRow => {
      const seed = i * 2 ** 45 + i;
      return {
        params: { ...plain, seed, ...settings[i % 9] },
        position: 7 * i,
        pass: i % 4,
        candidate: i % 9 ? -1 : i % v,
      };
    });
    using copy = logits.clone();
    const sampled = sampleRows(copy, rows, -1);
    const exact = torch.scope(() => logits.to({ dtype: "float64" }).logSoftmax(1).tolist()) as number[][];
    rows.forEach((row, i) => {
      const values = Float32Array.from((logits.tolist() as number[][])[i]);
      const id =
        row.params.temperature === 0
          ? values.indexOf(Math.max(...values))
          : sampleToken(values, row.params, gumbelStream(row.params.seed, row)).id;
      expect(sampled[i].id, `row ${i}`).toBe(id);
      expect(sampled[i].logprob).toBeCloseTo(exact[i][id], 6);
      if (row.candidate >= 0) expect(sampled[i].candidateLogprob).toBeCloseTo(exact[i][i % v], 6);
      expect(sampled[i].confidence).toBeCloseTo(Math.exp(exact[i][id]), 7);
      const entropy = exact[i].reduce((sum, logp) => sum - Math.exp(logp) * logp, 0);
      expect(sampled[i].entropy).toBeCloseTo(entropy, 6);
    });
  });

  it("equals the plain operators that other devices run", () => {
    const n = 27;
    const rows = Array.from({ length: n }, (_, i): SamplingRow => {
      const changes = {
        bias: new Map([
          [3, 2],
          [i, Number.NEGATIVE_INFINITY],
        ]),
        repetition: 1.3,
        repeated: new Set([1, 2]),
      };
      const more = { entropy: i % 2 === 0, logprobs: i % 4, ...(i % 3 === 0 && { changes }), forbidMask: i % 2 === 0 };
      return {
        params: { ...plain, ...settings[i % 9], ...more },
        position: i,
        pass: 0,
        candidate: i % 3 === 1 ? 4 : -1,
      };
    });
    using logits = randomLogits(1, n, 200);
    const [a, b] = [true, false].map((native) => {
      using copy = logits.clone();
      return sampleRows(copy, rows, 5, native);
    });
    rows.forEach(({ params: { entropy, forbidMask }, candidate }, i) => {
      if (candidate < 0) expect(a[i].id).toBe(b[i].id);
      if (candidate < 0) expect(a[i].logprob).toBeCloseTo(b[i].logprob, 6);
      if (entropy) expect(a[i].entropy).toBeCloseTo(b[i].entropy, 6);
      if (candidate >= 0) expect(a[i].candidateLogprob).toBeCloseTo(b[i].candidateLogprob, 6);
      expect(a[i].top?.map(({ id }) => id)).toEqual(b[i].top?.map(({ id }) => id));
      if (forbidMask) expect(a[i].id).not.toBe(5);
    });
  });

  it("a row's result does not depend on the rows beside it, to the last bit", () => {
    using logits = randomLogits(2, 12, 500);
    const rows = Array.from({ length: 12 }, (_, i): SamplingRow => {
      return { params: { ...plain, ...settings[i % 9] }, position: i, pass: 0, candidate: -1 };
    });
    using all = logits.clone();
    const together = sampleRows(all, rows, 5);
    rows.forEach((row, i) => {
      using one = logits.narrow(0, i, 1).clone();
      expect(sampleRows(one, [row], 5)).toEqual([together[i]]);
    });
  });

  it("gives NaN where a row is NaN or every token is forbidden, for that row alone", () => {
    using logits = torch.tensor([
      [1, 2, 3],
      [Number.NaN, 2, 3],
      [Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY],
    ]);
    const rows = [0, 1, 1].map((temperature): SamplingRow => {
      return { params: { ...plain, temperature }, position: 0, pass: 0, candidate: -1 };
    });
    const sampled = sampleRows(logits, rows, -1);
    expect(sampled.map(({ logprob }) => Number.isNaN(logprob))).toEqual([false, true, true]);
  });

  it("refuses what does not fit", () => {
    using logits = torch.zeros([2, 3]);
    expect(() => torch.ops.diffcoder.choose_tokens(logits, torch.zeros([2, 7], { dtype: "float64" }))).toThrow(
      /\[n, 8\]/,
    );
    const outside = torch.tensor([0, 1, 0, 0, 0, 0, 0, 3, 0, 1, 0, 0, 0, 0, 0, 0], { dtype: "float64" }).view([2, 8]);
    expect(() => torch.ops.diffcoder.choose_tokens(logits, outside)).toThrow(/candidate 3 of 3/);
  });
});

describe("attention over pages", () => {
  const parts = (blockSize: number, pageSize: number): PassPart[] => {
    let page = 1;
    return [
      { from: 0, to: 37, rows: [3, 36] },
      { from: 0, to: 1, rows: [0] },
      { from: 0, to: 70, rows: [] },
      { from: 0, to: 8, rows: [0, 1, 2, 3, 4, 5, 6, 7] },
    ].map(({ from, to, rows }, i) => ({
      ...{ from, to, rows, stored: 0 },
      pages: Array.from({ length: Math.ceil(to / pageSize) }, () => page++),
      tokens: Int32Array.from(randomPrompt(i, 80)),
      visible: (position: number) => Math.min((Math.floor(position / blockSize) + 1) * blockSize, to),
    }));
  };

  it.each([
    [4, 16, 16, "float32"],
    [1, 32, 16, "float32"],
    [7, 20, 24, "float32"],
    [3, 5, 20, "float64"],
    [8, 128, 64, "float32"],
    [4, 32, 32, "bfloat16"],
  ] as const)(
    "block size %i, pages of %i, heads of %i, %s: all kinds are the same",
    (blockSize, pageSize, headDim, dtype) => {
      const coder = sharpCoder({ headDim }).to({ dtype });
      const pass = parts(blockSize, pageSize);
      const [plain, ...others] = (["padded", "native", "flash"] as const).map((attention) => {
        const memory = new PagedKVCache(coder.model, { pages: 40, pageSize, attention });
        const run = (part: PassPart[]) =>
          torch.scope(() => torch.noGrad(() => memory.forward(coder.model, part)?.float()));
        const first = run(pass);
        // A second pass that reads what the first wrote, and writes some of it anew.
        const again = pass.map((part) => ({
          ...part,
          from: Math.max(0, part.to - 2 * blockSize),
          stored: part.to - 1,
          rows: [part.to - 1],
        }));
        const second = run(again.map((part) => ({ ...part, from: Math.floor(part.from / blockSize) * blockSize })));
        memory.dispose();
        return [first, second].map((hidden) => hidden?.flatten().tolist() as number[]);
      });
      const tolerance = { float32: 2e-5, float64: 1e-10, bfloat16: 0.15 }[dtype];
      for (const k of [0, 1]) {
        expect(plain[k].length).toBeGreaterThan(0);
        for (const other of others) {
          expect(Math.max(...plain[k].map((x, i) => Math.abs(x - other[k][i])))).toBeLessThan(tolerance);
        }
      }
      coder.dispose();
    },
  );

  it.each([
    ["native", 20, 24, "bfloat16"],
    ["native", 32, 16, "float64"],
    ["padded", 20, 24, "bfloat16"],
  ] as const)(
    "take what bytesPerPage says (%s, pages of %i, heads of %i, %s)",
    (attention, pageSize, headDim, dtype) => {
      const coder = sharpCoder({ headDim }).to({ dtype });
      const before = torch.memory().host;
      const memory = new PagedKVCache(coder.model, { pages: 7, pageSize, attention });
      expect(torch.memory().host - before).toBe(7 * PagedKVCache.bytesPerPage(coder.model, pageSize, attention));
      memory.dispose();
      coder.dispose();
    },
  );

  it("a sequence's attention does not depend on the sequences beside it, to the last bit", () => {
    const [q, k, v] = [4, 2, 2].map((heads, i) => {
      using generator = new torch.Generator({ seed: i });
      return torch.randn([1, 13, heads, 16], { generator });
    });
    const attend = (from: number, to: number, starts: number[], pages: number[]) => {
      const count = to - from;
      const table = torch.tensor(Int32Array.from(pages)).view([starts.length - 1, 1]);
      const slots = torch.tensor(
        starts.slice(1).flatMap((end, s) => Array.from({ length: end - starts[s] }, (_, i) => pages[s] * 16 + i)),
        { dtype: "int64" },
      );
      const visible = starts.slice(1).flatMap((end, s) => Array.from({ length: end - starts[s] }, (_, i) => i + 1));
      const cut = (x: torch.Tensor) => x.narrow(1, from, count);
      return torch.ops.diffcoder.paged_attention(
        ...([cut(q), cut(k), cut(v), torch.zeros([4, 2, 16, 16]), torch.zeros([4, 2, 16, 16]), slots, table] as const),
        torch.tensor(Int32Array.from(starts)),
        torch.tensor(Int32Array.from(visible)),
        16,
        null,
      ) as torch.Tensor;
    };
    const both = attend(0, 13, [0, 6, 13], [1, 3]).flatten().tolist() as number[];
    const alone = [attend(0, 6, [0, 6], [2]), attend(6, 13, [0, 7], [1])].flatMap(
      (x) => x.flatten().tolist() as number[],
    );
    expect(both).toEqual(alone);
  });

  it("refuses pages and tokens out of bounds instead of touching them", () => {
    const x = torch.zeros([1, 2, 2, 16]);
    const attend = (slot: number, page: number, seen: number, keys = torch.zeros([3, 2, 16, 16])) =>
      torch.ops.diffcoder.paged_attention(
        ...([x, x, x, keys, torch.zeros([3, 2, 16, 16]), torch.tensor([slot, 17], { dtype: "int64" })] as const),
        torch.tensor(Int32Array.of(page)).view([1, 1]),
        torch.tensor(Int32Array.of(0, 2)),
        torch.tensor(Int32Array.of(1, seen)),
        16,
        null,
      );
    expect(() => attend(48, 1, 2)).toThrow(/slot 48/);
    expect(() => attend(-1, 1, 2)).toThrow(/slot -1/);
    expect(() => attend(16, 3, 2)).toThrow(/page 3/);
    expect(() => attend(16, 1, 17)).toThrow(/sees 17/);
    expect(() => attend(16, 1, 2, torch.zeros([3, 2, 8, 16]))).toThrow(/key_pages must be/);
  });
});
