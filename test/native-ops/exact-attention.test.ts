import { describe, expect, it } from "vitest";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";

// The decomposition of docs/diffusion.md against the mask it stands for, in float64: every query of [x_t ; x_0] and what it
// sees, written out. Forward and all gradients to 1e-12.

interface Case {
  b: number;
  length: number;
  heads: number;
  kvHeads: number;
  blockSize: number;
  documents?: number[];
  onlyNoisy?: boolean;
}

/** bool [b, 1, sq, 2L]: noisy queries see their own noisy block and earlier clean blocks, clean ones clean blocks up to theirs. */
function denseMask({ b, length, blockSize, documents, onlyNoisy }: Case): Tensor {
  const starts = documents ?? Array.from({ length: b + 1 }, (_, row) => row * length);
  const document = new Int32Array(b * length);
  const block = new Int32Array(b * length);
  for (let d = 0; d + 1 < starts.length; d++) {
    for (let i = starts[d]; i < starts[d + 1]; i++) {
      document[i] = d;
      block[i] = Math.floor((i - starts[d]) / blockSize);
    }
  }
  const queries = onlyNoisy ? length : 2 * length;
  const mask = new Uint8Array(b * queries * 2 * length);
  for (let row = 0; row < b; row++) {
    for (let q = 0; q < queries; q++) {
      for (let k = 0; k < 2 * length; k++) {
        const [i, j] = [row * length + (q % length), row * length + (k % length)];
        if (document[i] !== document[j]) continue;
        const [noisyQuery, noisyKey] = [q < length, k < length];
        const sees = noisyKey
          ? noisyQuery && block[i] === block[j]
          : noisyQuery
            ? block[j] < block[i]
            : block[j] <= block[i];
        if (sees) mask[(row * queries + q) * 2 * length + k] = 1;
      }
    }
  }
  return torch
    .tensor(mask)
    .to("bool")
    .view([b, 1, queries, 2 * length]);
}

/** softmax(q k^T / sqrt(d)) v under the mask, heads of k and v repeated. q [b, sq, h, d]. */
function dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor): Tensor {
  const groups = q.size(2) / k.size(2);
  const [qh, kh, vh] = [q, k.repeatInterleave(groups, 2), v.repeatInterleave(groups, 2)].map((x) => x.transpose(1, 2));
  const scores = qh.matmul(kh.transpose(-2, -1)).div(Math.sqrt(q.size(-1)));
  return scores.maskedFill(mask.logicalNot(), Number.NEGATIVE_INFINITY).softmax(-1).matmul(vh).transpose(1, 2);
}

function largestErrors(c: Case): number[] {
  return torch.scope(() => {
    using generator = new torch.Generator({ seed: 7 });
    const random = (s: number, h: number) =>
      torch.randn([c.b, s, h, 16], { generator, dtype: "float64", requiresGrad: true });
    const [q, k, v] = [
      random(c.onlyNoisy ? c.length : 2 * c.length, c.heads),
      random(2 * c.length, c.kvHeads),
      random(2 * c.length, c.kvHeads),
    ];
    const documents = c.documents ?? null;
    const ours = torch.ops.diffcoder.block_diffusion_attention(q, k, v, c.blockSize, documents, null) as Tensor;
    const reference = dense(q, k, v, denseMask(c));
    const gradient = torch.randn(ours.shape, { generator, dtype: "float64" });
    const gradients = [ours, reference].map((out) => torch.grad([out], [q, k, v], { gradOutputs: [gradient] }));
    const pairs: [Tensor, Tensor][] = [[ours, reference]];
    for (let i = 0; i < 3; i++) pairs.push([gradients[0][i] as Tensor, gradients[1][i] as Tensor]);
    return pairs.map(([a, b]) => a.detach().sub(b.detach()).abs().max().item());
  });
}

const base = { b: 2, heads: 4, kvHeads: 2 };
const cases: [string, Case][] = [1, 2, 4, 8, 32].flatMap((blockSize): [string, Case][] => [
  [`B = ${blockSize}, L = 64`, { ...base, length: 64, blockSize }],
  [`B = ${blockSize}, odd L = 37`, { ...base, length: 37, blockSize }],
  [`B = ${blockSize}, only noisy queries`, { ...base, length: 41, blockSize, onlyNoisy: true }],
  [`B = ${blockSize}, one head each`, { b: 1, heads: 1, kvHeads: 1, length: 33, blockSize }],
  [
    `B = ${blockSize}, isolated documents, some shorter than a block`,
    { ...base, length: 45, blockSize, documents: [0, 3, 20, 45, 46, 83, 90] },
  ],
]);

describe("block_diffusion_attention", () => {
  it.each(cases)("equals the dense mask in float64, forward and backward: %s", (_, c) => {
    for (const error of largestErrors(c)) expect(error).toBeLessThan(1e-12);
  });

  it("equals the dense mask for a block as long as the sequence", () => {
    for (const error of largestErrors({ ...base, length: 19, blockSize: 64 })) expect(error).toBeLessThan(1e-12);
  });

  it("keeps other documents and later blocks out, bit for bit", () => {
    const length = 24;
    torch.scope(() => {
      using generator = new torch.Generator({ seed: 3 });
      const random = (h: number) => torch.randn([1, 2 * length, h, 16], { generator });
      const [q, k, v] = [random(2), random(2), random(2)];
      const run = (keys: Tensor) =>
        torch.ops.diffcoder.block_diffusion_attention(q, keys, v, 4, [0, 12, 24], null) as Tensor;
      const changed = k.clone();
      // Document 2 in both halves, and the clean last block of document 1.
      for (const [from, count] of [
        [12, 12],
        [length + 12, 12],
        [length + 8, 4],
      ])
        changed.narrow(1, from, count).add_(1);
      const [a, b] = [run(k), run(changed)];
      expect(a.narrow(1, 0, 12).equal(b.narrow(1, 0, 12))).toBe(true); // noisy half of document 1 sees clean blocks before its own
      expect(a.narrow(1, length, 8).equal(b.narrow(1, length, 8))).toBe(true);
      expect(a.narrow(1, length + 8, 4).equal(b.narrow(1, length + 8, 4))).toBe(false);
    });
  });
});
