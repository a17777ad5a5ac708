import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import { type Call, compare, DTYPES, type Dtype, diffcoder, normal, run, same, TOLERANCE } from "./support.js";

interface Shape {
  batch: number;
  length: number;
  heads: number;
  keyHeads: number;
  headDim: number;
}

const inputs = ({ batch, heads, keyHeads, headDim }: Shape, queries: number, keys: number, dtype: Dtype): Tensor[] => [
  normal([batch, queries, heads, headDim], dtype, 1),
  normal([batch, keys, keyHeads, headDim], dtype, 2),
  normal([batch, keys, keyHeads, headDim], dtype, 3),
];

const attention = (name: string, ...options: unknown[]): Call => {
  return (q, k, v) => diffcoder[name](q, k, v, ...options) as Tensor;
};

const SHAPES: Record<string, Shape> = {
  "length 64, heads of 16": { batch: 2, length: 64, heads: 2, keyHeads: 2, headDim: 16 },
  "odd length, grouped heads": { batch: 2, length: 67, heads: 4, keyHeads: 2, headDim: 32 },
  "an odd head size": { batch: 1, length: 33, heads: 6, keyHeads: 2, headDim: 21 },
  "longer than two tiles": { batch: 1, length: 131, heads: 2, keyHeads: 1, headDim: 64 },
  "one position": { batch: 2, length: 1, heads: 2, keyHeads: 1, headDim: 8 },
};
const DOCUMENTS: Record<string, (shape: Shape) => number[] | null> = {
  "whole rows": () => null,
  documents: ({ batch, length }) => {
    const starts = new Set([0, 1, 6, Math.floor(length / 2), length, batch * length]);
    for (let row = 0; row < batch; row++) starts.add(row * length);
    return [...starts].filter((start) => start <= batch * length).sort((a, b) => a - b);
  },
};

describe.each(Object.keys(SHAPES))("block_diffusion_attention, %s", (name) => {
  const shape = SHAPES[name];
  const { length } = shape;

  describe.each(["block_diffusion_attention", "block_diffusion_attention_merged"])("%s", (operator) => {
    it.each(Object.keys(DOCUMENTS))("float64 is the dense mask's result for every block size, %s", (kind) => {
      const documents = DOCUMENTS[kind](shape);
      for (const block of [1, 2, 3, 4, 8, 32, 200]) {
        for (const queries of [2 * length, length]) {
          const [actual, expected] = [operator, "block_diffusion_attention_reference"].map((op) =>
            attention(op, block, documents, null),
          );
          const worst = compare(actual, expected, inputs(shape, queries, 2 * length, "float64"));
          expect(worst, `B = ${block}, ${queries} queries`).toBeLessThan(TOLERANCE.float64);
        }
      }
    });

    it.each(DTYPES.slice(1))("%s", (dtype) => {
      const documents = DOCUMENTS.documents(shape);
      for (const block of [1, 4, 32]) {
        const [actual, expected] = [operator, "block_diffusion_attention_reference"].map((op) =>
          attention(op, block, documents, 0.3),
        );
        expect(compare(actual, expected, inputs(shape, 2 * length, 2 * length, dtype))).toBeLessThan(TOLERANCE[dtype]);
      }
    });
  });
});

describe("causal_attention", () => {
  it.each(Object.keys(SHAPES))("is the dense mask's result, %s", (name) => {
    const shape = SHAPES[name];
    for (const documents of [null, DOCUMENTS.documents(shape)]) {
      for (const dtype of DTYPES) {
        const [actual, expected] = ["causal_attention", "causal_attention_reference"].map((op) =>
          attention(op, documents, null),
        );
        expect(compare(actual, expected, inputs(shape, shape.length, shape.length, dtype)), dtype).toBeLessThan(
          TOLERANCE[dtype],
        );
      }
    }
  });

  it("is libtorch's own causal attention", () => {
    const [q, k, v] = inputs(SHAPES["length 64, heads of 16"], 64, 64, "float64");
    const heads = (t: Tensor) => t.transpose(1, 2);
    const expected = heads(torch.scaledDotProductAttention(heads(q), heads(k), heads(v), null, 0, true));
    const worst = (diffcoder.causal_attention(q, k, v, null, null) as Tensor).sub(expected).abs().amax().item();
    expect(worst).toBeLessThan(1e-14);
  });
});

describe("documents, block sizes and lengths at random", () => {
  const layouts = fc
    .record({ batch: fc.integer({ min: 1, max: 3 }), length: fc.integer({ min: 1, max: 90 }) })
    .chain(({ batch, length }) =>
      fc.record({
        batch: fc.constant(batch),
        length: fc.constant(length),
        block: fc.integer({ min: 1, max: 100 }),
        cuts: fc.array(fc.integer({ min: 0, max: batch * length }), { maxLength: 12 }),
      }),
    );

  it("agree with the dense mask to 1e-12", () => {
    fc.assert(
      fc.property(layouts, ({ batch, length, block, cuts }) => {
        const rows = Array.from({ length: batch + 1 }, (_, row) => row * length);
        const documents = [...rows, ...cuts].sort((a, b) => a - b); // repeated starts: empty documents
        const shape = { batch, length, heads: 2, keyHeads: 1, headDim: 8 };
        const [fused, merged, expected] = ["", "_merged", "_reference"].map((suffix) =>
          attention(`block_diffusion_attention${suffix}`, block, documents, null),
        );
        const qkv = inputs(shape, 2 * length, 2 * length, "float64");
        expect(compare(fused, expected, qkv)).toBeLessThan(1e-12);
        expect(compare(merged, expected, qkv)).toBeLessThan(1e-12);
      }),
      { numRuns: 40, seed: 5 },
    );
  });
});

describe("what a query cannot see does not touch it", () => {
  const shape = { batch: 1, length: 70, heads: 4, keyHeads: 2, headDim: 16 };
  const forward = (q: Tensor, k: Tensor, v: Tensor, documents: number[] | null = null) =>
    diffcoder.block_diffusion_attention(q, k, v, 4, documents, null) as Tensor;
  /** The tensor with new numbers at positions from..to of both halves. */
  const changed = (t: Tensor, from: number, to: number): Tensor => {
    const copy = t.clone();
    for (const half of [0, shape.length])
      copy
        .narrow(1, half + from, to - from)
        .mul_(-3)
        .add_(0.5);
    return copy;
  };

  it("a later block, to the bit", () => {
    const [q, k, v] = inputs(shape, 140, 140, "float32");
    const [before, after] = [forward(q, k, v), forward(q, changed(k, 40, 70), changed(v, 40, 70))];
    for (const half of [0, 70]) expect(same(before.narrow(1, half, 40), after.narrow(1, half, 40))).toBe(true);
    expect(same(before.narrow(1, 40, 4), after.narrow(1, 40, 4))).toBe(false);
  });

  it("another document, to the bit", () => {
    const [q, k, v] = inputs(shape, 140, 140, "float32");
    const documents = [0, 33, 70];
    const before = forward(q, k, v, documents);
    const after = forward(q, changed(k, 0, 33), changed(v, 0, 33), documents);
    for (const half of [0, 70])
      expect(same(before.narrow(1, half + 33, 37), after.narrow(1, half + 33, 37))).toBe(true);
  });

  // 1030 positions: long enough that the backward pass sums a head's key gradients in several portions.
  describe.each([70, 1030])("with %i positions", (length) => {
    const documents = [0, 33, length, length + 40, 2 * length, 3 * length];
    const all = inputs({ batch: 3, length, heads: 2, keyHeads: 1, headDim: 8 }, 2 * length, 2 * length, "float32");
    const call = attention("block_diffusion_attention", 4, documents, null);

    it("another row of the batch, to the bit, forward and backward", () => {
      const seed = normal([3, 2 * length, 2, 8], "float32", 9);
      const outcome = (rows: [number, number], documents: number[]) => {
        const part = all.map((t) => t.narrow(0, rows[0], rows[1]).detach().requiresGrad_());
        const out = attention("block_diffusion_attention", 4, documents, null)(...part) as Tensor;
        const gradOutputs = [seed.narrow(0, rows[0], rows[1])];
        return [out, ...torch.grad([out], part, { gradOutputs })] as Tensor[];
      };
      const [together, alone] = [outcome([0, 3], documents), outcome([1, 1], [0, 40, length])];
      together.forEach((t, i) => {
        expect(same(t.narrow(0, 1, 1), alone[i])).toBe(true);
      });
    });

    it("the number of threads, to the bit", () => {
      const threads = torch.getNumThreads();
      try {
        const [one, three] = [1, 3].map((n) => {
          torch.setNumThreads(n);
          return run(call, all);
        });
        expect(same(one.outputs[0], three.outputs[0])).toBe(true);
        one.gradients.forEach((g, i) => {
          expect(same(g as Tensor, three.gradients[i] as Tensor)).toBe(true);
        });
      } finally {
        torch.setNumThreads(threads);
      }
    });
  });

  it("and long sequences have the dense mask's result too", () => {
    const qkv = inputs({ batch: 1, length: 1030, heads: 2, keyHeads: 1, headDim: 8 }, 2060, 2060, "float64");
    const [actual, expected] = ["", "_reference"].map((end) =>
      attention(`block_diffusion_attention${end}`, 4, null, null),
    );
    expect(compare(actual, expected, qkv)).toBeLessThan(1e-12);
  });
});

describe("layouts and modes", () => {
  const shape = { batch: 2, length: 20, heads: 4, keyHeads: 2, headDim: 16 };

  it("takes views of a fused projection", () => {
    const fused = normal([2, 40, 8 * 16], "float64", 4);
    const parts = (t: Tensor) => {
      const heads = t.view([2, 40, 8, 16]);
      return [heads.narrow(2, 0, 4), heads.narrow(2, 4, 2), heads.narrow(2, 6, 2)];
    };
    for (const suffix of ["", "_merged"]) {
      const [actual, expected] = [suffix, "_reference"].map(
        (end): Call =>
          (t) =>
            diffcoder[`block_diffusion_attention${end}`](...parts(t), 4, null, null) as Tensor,
      );
      expect(compare(actual, expected, [fused])).toBeLessThan(1e-12);
    }
  });

  it("takes tensors whose last dimension is not contiguous", () => {
    const scattered = (t: Tensor) => t.transpose(0, 3).contiguous().transpose(0, 3);
    const [actual, expected] = ["", "_reference"].map((s) => attention(`block_diffusion_attention${s}`, 4, null, null));
    expect(compare(actual, expected, inputs(shape, 40, 40, "float64"), scattered)).toBeLessThan(1e-12);
  });

  it("keeps no graph without gradients, and gives the same numbers", () => {
    const qkv = inputs(shape, 40, 40, "float32").map((t) => t.requiresGrad_());
    const call = attention("block_diffusion_attention", 4, null, null);
    const [recorded, quiet] = [call(...qkv) as Tensor, torch.noGrad(() => call(...qkv) as Tensor)];
    expect(quiet.requiresGrad).toBe(false);
    expect(same(recorded.detach(), quiet)).toBe(true);
    const inference = torch.inferenceMode(() => (call(...qkv) as Tensor).tolist());
    expect(inference).toEqual(quiet.tolist());
  });

  it("computes in autocast's dtype and gives gradients in the inputs'", () => {
    const qkv = inputs(shape, 40, 40, "float32").map((t) => t.requiresGrad_());
    const out = torch.autocast(
      { device: "cpu", dtype: "bfloat16" },
      () => diffcoder.block_diffusion_attention(...qkv, 4, null, null) as Tensor,
    );
    expect(out.dtype).toBe("bfloat16");
    expect(torch.grad([out.sum()], qkv).map((g) => (g as Tensor).dtype)).toEqual(["float32", "float32", "float32"]);
  });

  it.each(["block_diffusion_attention", "block_diffusion_attention_merged"])(
    "takes no rows and no positions: %s",
    (op) => {
      for (const [batch, length] of [
        [0, 8],
        [2, 0],
      ]) {
        const qkv = inputs({ ...shape, batch }, 2 * length, 2 * length, "float32").map((t) => t.requiresGrad_());
        const out = attention(op, 4, null, null)(...qkv) as Tensor;
        expect(out.shape).toEqual([batch, 2 * length, 4, 16]);
        expect(torch.grad([out.sum()], qkv).map((g) => (g as Tensor).shape)).toEqual(qkv.map((t) => t.shape));
      }
    },
  );

  it("says what is wrong with its arguments", () => {
    const [q, k, v] = inputs(shape, 40, 40, "float32");
    const call =
      (...args: unknown[]) =>
      () =>
        diffcoder.block_diffusion_attention(...args);
    expect(call(q, k, v, 0)).toThrow(/block_size must be at least 1, got 0/);
    expect(call(q, k, v, 4, [0, 20])).toThrow(/documents must run from 0 to 40/);
    expect(call(q, k, v, 4, [0, 30, 40])).toThrow(/0\.\.30 crosses the end of a row of 20/);
    expect(call(q, k, v, 4, [0, 9, 5, 20, 40])).toThrow(/documents must not decrease/);
    expect(call(q, k.narrow(1, 0, 39), v.narrow(1, 0, 39), 4)).toThrow(/must be even/);
    expect(call(q.narrow(1, 0, 30), k, v, 4)).toThrow(/all 40 positions or the noisy half's 20/);
    expect(call(q.narrow(2, 0, 3), k, v, 4)).toThrow(/3 query heads are no multiple of 2/);
    expect(call(q.double(), k, v, 4)).toThrow(/one floating dtype/);
    expect(call(q, k, v.narrow(3, 0, 8), 4)).toThrow(/k and v differ in shape/);
    expect(() => diffcoder.causal_attention(q, k.narrow(1, 0, 39), v.narrow(1, 0, 39))).toThrow(
      /40 positions and k 39/,
    );
  });

  it("refuses a second derivative instead of giving zero", () => {
    const qkv = inputs(shape, 40, 40, "float32").map((t) => t.requiresGrad_());
    const out = attention("block_diffusion_attention", 4, null, null)(...qkv) as Tensor;
    expect(() => torch.grad([out.sum()], qkv, { createGraph: true })).toThrow(/no second derivative/);
  });
});
