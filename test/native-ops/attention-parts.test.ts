import { describe, expect, it } from "vitest";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import { DTYPES, type Dtype, diffcoder, difference, normal, TOLERANCE } from "./support.js";

// Operators that give a log-sum-exp with their output and take one with the gradient, so that parts of a softmax merge.

type Part = [out: Tensor, lse: Tensor];
type Gradients = [dq: Tensor, dk: Tensor, dv: Tensor];

interface Shape {
  batch: number;
  queries: number;
  keys: number;
  heads: number;
  keyHeads: number;
  headDim: number;
}

const inputs = ({ batch, queries, keys, heads, keyHeads, headDim }: Shape, dtype: Dtype): [Tensor, Tensor, Tensor] => [
  normal([batch, queries, heads, headDim], dtype, 1),
  normal([batch, keys, keyHeads, headDim], dtype, 2),
  normal([batch, keys, keyHeads, headDim], dtype, 3),
];

/** softmax(scale q k^T where visible [sq, sk]) v with its log-sum-exp, and the gradients for `grad`: plain operators. */
function dense(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: number, grad: Tensor): [Part, Gradients] {
  const leaves = [q, k, v].map((x) => x.detach().double().requiresGrad_());
  const group = q.size(2) / k.size(2);
  const [qh, kh, vh] = leaves.map((x, i) => (i > 0 ? x.repeatInterleave(group, 2) : x).transpose(1, 2));
  const scores = qh.matmul(kh.transpose(2, 3)).mul(scale).maskedFill(visible.logicalNot(), Number.NEGATIVE_INFINITY);
  const out = scores.softmax(-1).matmul(vh).transpose(1, 2);
  const gradients = torch.grad([out], leaves, { gradOutputs: [grad.double()] });
  return [[out.detach(), scores.detach().logsumexp([-1])], gradients as Gradients];
}

/** bool [sq, sk] of a rule over indices. */
function mask(queries: number, keys: number, sees: (query: number, key: number) => boolean): Tensor {
  const flags = new Uint8Array(queries * keys);
  for (let i = 0; i < queries; i++) for (let j = 0; j < keys; j++) flags[i * keys + j] = sees(i, j) ? 1 : 0;
  return torch.tensor(flags).to("bool").view([queries, keys]);
}

/** What a query of [x_t ; x_0] sees, in blocks of B. */
const blockDiffusionMask = (length: number, block: number, queries: number) =>
  mask(queries, 2 * length, (i, j) => {
    const [a, b] = [i % length, j % length].map((at) => Math.floor(at / block));
    if (j < length) return i < length && a === b;
    return i < length ? b < a : b <= a;
  });

const like = (actual: Tensor, expected: Tensor): number => difference(actual, expected.to(actual.dtype));

/** The worst error of an operator pair against the dense mask, with log-sum-exp and gradients. */
function worst(name: string, shape: Shape, dtype: Dtype, visible: Tensor, options: unknown[], scale?: number): number {
  return torch.scope(() => {
    const [q, k, v] = inputs(shape, dtype);
    const grad = normal(q.shape, dtype, 4);
    const expected = dense(q, k, v, visible, scale ?? 1 / Math.sqrt(shape.headDim), grad).flat();
    const [out, lse] = diffcoder[`${name}_forward`](q, k, v, ...options, scale ?? null) as Part;
    expect(lse.dtype).toBe(dtype === "float64" ? "float64" : "float32");
    const gradients = diffcoder[`${name}_backward`](grad, q, k, v, out, lse, ...options, scale ?? null) as Gradients;
    return Math.max(...[out, lse, ...gradients].map((tensor, i) => like(tensor, expected[i])));
  });
}

const heads = { batch: 2, heads: 4, keyHeads: 2, headDim: 16 };

describe.each(DTYPES)("forward and backward against dense masks in float64: %s", (dtype) => {
  it.each([
    [70, 131],
    [131, 70],
    [1, 65],
    [64, 1],
  ])("attention of %i queries to %i keys", (queries, keys) => {
    const all = mask(queries, keys, () => true);
    for (const scale of [undefined, 0.3]) {
      expect(worst("attention", { ...heads, queries, keys }, dtype, all, [], scale)).toBeLessThan(TOLERANCE[dtype]);
    }
  });

  it("causal_attention", () => {
    const shape = { ...heads, queries: 67, keys: 67 };
    const visible = mask(67, 67, (i, j) => j <= i);
    expect(worst("causal_attention", shape, dtype, visible, [null])).toBeLessThan(TOLERANCE[dtype]);
    const [cut, isolated] = [30, mask(67, 67, (i, j) => j <= i && i < 30 === j < 30)];
    const documents = [0, cut, 67, 67 + cut, 134];
    expect(worst("causal_attention", shape, dtype, isolated, [documents])).toBeLessThan(TOLERANCE[dtype]);
  });

  it.each(["block_diffusion_attention", "block_diffusion_attention_merged"])("%s", (name) => {
    const length = 37;
    for (const block of [1, 4, 32]) {
      for (const queries of [2 * length, length]) {
        const visible = blockDiffusionMask(length, block, queries);
        const error = worst(name, { ...heads, queries, keys: 2 * length }, dtype, visible, [block, null]);
        expect(error, `B ${block}, ${queries} queries`).toBeLessThan(TOLERANCE[dtype]);
      }
    }
  });
});

/** One part more, as the ring merges: out and lse are those of the keys of both. */
function merge([out, lse]: Part, [more, moreLse]: Part): Part {
  const share = moreLse.sub(lse).sigmoid().transpose(1, 2).unsqueeze(-1);
  return [out.lerp(more, share), lse.logaddexp(moreLse)];
}

describe("parts of a split softmax", () => {
  const [length, block, headDim, scale] = [48, 4, 16, 0.25];
  const shape = { batch: 2, queries: 2 * length, keys: 2 * length, heads: 4, keyHeads: 2, headDim };

  it.each(["block_diffusion_attention", "block_diffusion_attention_merged"])(
    "%s of a piece and attention to what lies before it are the whole",
    (name) => {
      torch.scope(() => {
        const [q, k, v] = inputs(shape, "float64");
        const grad = normal(q.shape, "float64", 4);
        const visible = blockDiffusionMask(length, block, 2 * length);
        const [[wholeOut], whole] = dense(q, k, v, visible, scale, grad);
        // The second half of the positions, of both halves of the input; what lies before is clean.
        const [from, count] = [length / 2, length / 2];
        const piece = (x: Tensor) => torch.cat([x.narrow(1, from, count), x.narrow(1, length + from, count)], 1);
        const early = (x: Tensor) => x.narrow(1, length, from);
        const [ql, kl, vl, gl] = [q, k, v, grad].map(piece);
        const options = [block, null, scale];
        const own = diffcoder[`${name}_forward`](ql, kl, vl, ...options) as Part;
        const [out, lse] = merge(own, diffcoder.attention_forward(ql, early(k), early(v), scale) as Part);
        expect(difference(out, piece(wholeOut))).toBeLessThan(1e-12);
        const mine = diffcoder[`${name}_backward`](gl, ql, kl, vl, out, lse, ...options) as Gradients;
        const theirs = diffcoder.attention_backward(gl, ql, early(k), early(v), out, lse, scale) as Gradients;
        expect(difference(mine[0].add(theirs[0]), piece(whole[0]))).toBeLessThan(1e-12);
        // The piece's own keys are seen by it alone, but for the last ones' own block: all of their gradient is here.
        expect(difference(mine[1], piece(whole[1]))).toBeLessThan(1e-12);
        expect(difference(mine[2], piece(whole[2]))).toBeLessThan(1e-12);
        // The keys before it have the rest of theirs from the first half's own queries.
        const first = (x: Tensor) => torch.cat([x.narrow(1, 0, from), x.narrow(1, length, from)], 1);
        const [qf, kf, vf, gf] = [q, k, v, grad].map(first);
        const alone = diffcoder[`${name}_forward`](qf, kf, vf, ...options) as Part;
        const rest = diffcoder[`${name}_backward`](gf, qf, kf, vf, ...alone, ...options) as Gradients;
        for (const i of [1, 2]) {
          const cleanHalf = rest[i].narrow(1, from, from);
          expect(difference(cleanHalf.add(theirs[i]), early(whole[i]))).toBeLessThan(1e-12);
        }
      });
    },
  );

  it("merge in causal attention too, whatever the cut", () => {
    torch.scope(() => {
      const [q, k, v] = inputs({ ...shape, queries: length, keys: length }, "float64");
      const grad = normal(q.shape, "float64", 4);
      const [[wholeOut], whole] = dense(
        q,
        k,
        v,
        mask(length, length, (i, j) => j <= i),
        scale,
        grad,
      );
      for (const cut of [1, 17, 47]) {
        const [late, early] = [(x: Tensor) => x.narrow(1, cut, length - cut), (x: Tensor) => x.narrow(1, 0, cut)];
        const own = diffcoder.causal_attention_forward(late(q), late(k), late(v), null, scale) as Part;
        const [out, lse] = merge(own, diffcoder.attention_forward(late(q), early(k), early(v), scale) as Part);
        expect(difference(out, late(wholeOut))).toBeLessThan(1e-12);
        const asked = [late(grad), late(q)];
        const mine = diffcoder.causal_attention_backward(
          ...asked,
          late(k),
          late(v),
          out,
          lse,
          null,
          scale,
        ) as Gradients;
        const theirs = diffcoder.attention_backward(...asked, early(k), early(v), out, lse, scale) as Gradients;
        expect(difference(mine[0].add(theirs[0]), late(whole[0]))).toBeLessThan(1e-12);
        expect(difference(mine[1], late(whole[1]))).toBeLessThan(1e-12);
        expect(difference(mine[2], late(whole[2]))).toBeLessThan(1e-12);
      }
    });
  });

  it("take views of larger tensors", () => {
    torch.scope(() => {
      const [q, k, v] = inputs({ ...shape, queries: 20, keys: 30 }, "float64");
      const grad = normal([2, 20, 4, headDim], "float64", 4);
      const inside = (x: Tensor) => {
        const wide = torch.zeros([3, x.size(1) + 5, x.size(2) + 1, headDim], { dtype: "float64" });
        return wide.narrow(0, 1, 2).narrow(1, 2, x.size(1)).narrow(2, 1, x.size(2)).copy_(x);
      };
      const [out, lse] = diffcoder.attention_forward(q, k, v, null) as Part;
      const views = diffcoder.attention_forward(inside(q), inside(k), inside(v), null) as Part;
      expect(views[0].equal(out) && views[1].equal(lse)).toBe(true);
      const wideLse = torch.zeros([2, 4, 29], { dtype: "float64" }).narrow(2, 3, 20).copy_(lse);
      const expected = diffcoder.attention_backward(grad, q, k, v, out, lse, null) as Gradients;
      const viewed = [grad, q, k, v, out].map(inside);
      const actual = diffcoder.attention_backward(...viewed, wideLse, null) as Gradients;
      for (const [i, gradient] of actual.entries()) expect(gradient.equal(expected[i])).toBe(true);
    });
  });

  it("of no keys leave the others as they are", () => {
    torch.scope(() => {
      const [q, k, v] = inputs({ ...shape, queries: 5, keys: 3 }, "float32");
      const none = (x: Tensor) => x.narrow(1, 0, 0);
      const part = diffcoder.attention_forward(q, k, v, null) as Part;
      const [out, lse] = merge(part, diffcoder.attention_forward(q, none(k), none(v), null) as Part);
      expect(out.equal(part[0]) && lse.equal(part[1])).toBe(true);
      const noQueries = [none(q), none(q), k, v, none(q), lse.narrow(2, 0, 0)];
      const [dq, dk, dv] = diffcoder.attention_backward(...noQueries, null) as Gradients;
      expect(dq.shape).toEqual([2, 0, 4, headDim]);
      for (const gradient of [dk, dv]) expect(gradient.equal(torch.zerosLike(k))).toBe(true);
    });
  });
});

describe("what the parts refuse", () => {
  const [q, k, v] = inputs({ batch: 1, queries: 8, keys: 8, heads: 4, keyHeads: 2, headDim: 8 }, "float32");

  it("recording: a graph would be without them", () => {
    const leaf = q.detach().clone().requiresGrad_();
    expect(() => diffcoder.attention_forward(leaf, k, v, null)).toThrow(/records no graph/);
    expect(() => diffcoder.block_diffusion_attention_forward(leaf, k, v, 2, null, null)).toThrow(/records no graph/);
    expect(() => diffcoder.causal_attention_forward(leaf, k.repeatInterleave(2, 2), v, null, null)).toThrow();
    expect(torch.noGrad(() => diffcoder.attention_forward(leaf, k, v, null))).toBeDefined();
  });

  it("results that are not those of the queries", () => {
    const [out, lse] = diffcoder.attention_forward(q, k, v, null) as Part;
    const backward = (...[grad, o, l]: Tensor[]) => diffcoder.attention_backward(grad, q, k, v, o, l, null);
    expect(() => backward(q.narrow(1, 0, 4), out, lse)).toThrow(/grad and out must be like q/);
    expect(() => backward(q, out.double(), lse)).toThrow(/grad and out must be like q/);
    expect(() => backward(q, out, lse.transpose(1, 2))).toThrow(/lse must be \[batch, heads, positions\]/);
    expect(() => backward(q, out, lse.double())).toThrow(/lse must be/);
    expect(() => diffcoder.attention_forward(q, k.narrow(3, 0, 4), v.narrow(3, 0, 4), null)).toThrow(/head_dim/);
  });

  it("nothing of autocast: a part computes in its arguments' dtype", () => {
    const [plain] = diffcoder.attention_forward(q, k, v, null) as Part;
    torch.autocast({ device: "cpu", dtype: "bfloat16" }, () => {
      const [out] = diffcoder.attention_forward(q, k, v, null) as Part;
      expect(out.equal(plain)).toBe(true);
    });
  });
});
