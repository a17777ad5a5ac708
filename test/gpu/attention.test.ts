import { describe, expect, it } from "vitest";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import {
  type Compared,
  compare,
  Draw,
  device,
  memory,
  milliseconds,
  record,
  relativeError,
  sized,
  tolerance,
} from "./support.js";

const { diffcoder } = torch.ops;
const DTYPES: Compared[] = ["float64", "float32", "bfloat16", "float16"];
const BLOCKS = [1, 2, 4, 8, 32];

interface Shape {
  batch: number;
  length: number;
  heads: number;
  keyHeads: number;
  headDim: number;
  documents?: number[];
}

/** Odd lengths, grouped heads, head sizes with and without a flash kernel; documents shorter and longer than blocks. */
const SHAPES: Record<string, Shape> = {
  "L 67, 4 heads of 64 on 2": { batch: 2, length: 67, heads: 4, keyHeads: 2, headDim: 64 },
  "L 130, 2 heads of 128": { batch: 1, length: 130, heads: 2, keyHeads: 2, headDim: 128 },
  "L 5, 6 heads of 8 on 1": { batch: 3, length: 5, heads: 6, keyHeads: 1, headDim: 8 },
  "L 33, 4 heads of 12 on 2": { batch: 2, length: 33, heads: 4, keyHeads: 2, headDim: 12 },
  "L 1": { batch: 2, length: 1, heads: 2, keyHeads: 1, headDim: 16 },
  documents: {
    batch: 2,
    length: 67,
    heads: 4,
    keyHeads: 2,
    headDim: 64,
    documents: [0, 1, 6, 40, 67, 67 + 33, 134],
  },
  "documents of every length": {
    batch: 1,
    length: 78,
    heads: 2,
    keyHeads: 1,
    headDim: 32,
    documents: Array.from({ length: 13 }, (_, i) => (i * (i + 1)) / 2),
  },
};

function inputs(shape: Shape, queries: number, keys: number, dtype: Compared): Tensor[] {
  const { batch, heads, keyHeads, headDim } = shape;
  const draw = new Draw(11);
  return [
    draw.normal([batch, queries, heads, headDim], dtype),
    draw.normal([batch, keys, keyHeads, headDim], dtype),
    draw.normal([batch, keys, keyHeads, headDim], dtype),
  ];
}

describe.each(DTYPES)("block_diffusion_attention in %s against a dense mask in float64", (dtype) => {
  it.each(BLOCKS)("B %i: output and gradients of q, k and v", (blockSize) => {
    for (const [name, shape] of Object.entries(SHAPES)) {
      const { length, documents = null } = shape;
      for (const queries of [2 * length, length]) {
        const run =
          (operator: string) =>
          (...qkv: Tensor[]) =>
            diffcoder[operator](...qkv, blockSize, documents, null) as Tensor;
        const { forward, backward } = compare(
          inputs(shape, queries, 2 * length, dtype),
          run("block_diffusion_attention"),
          run("block_diffusion_attention_reference"),
        );
        const title = `${name}, ${queries === length ? "noisy queries" : "all queries"}`;
        expect(forward, `${title}, forward`).toBeLessThan(tolerance[dtype]);
        expect(backward, `${title}, backward`).toBeLessThan(tolerance[dtype]);
      }
    }
  });
});

describe.each(DTYPES)("causal_attention in %s against a dense mask in float64", (dtype) => {
  it.each(Object.keys(SHAPES))("%s: output and gradients", (name) => {
    const shape = SHAPES[name];
    const run =
      (operator: string) =>
      (...qkv: Tensor[]) =>
        diffcoder[operator](...qkv, shape.documents ?? null, null) as Tensor;
    const { forward, backward } = compare(
      inputs(shape, shape.length, shape.length, dtype),
      run("causal_attention"),
      run("causal_attention_reference"),
    );
    expect(forward).toBeLessThan(tolerance[dtype]);
    expect(backward).toBeLessThan(tolerance[dtype]);
  });
});

type Part = [out: Tensor, lse: Tensor];
type Gradients = [dq: Tensor, dk: Tensor, dv: Tensor];

/** out and lse of both parts' keys, as a ring of ranks merges them. */
function merge([out, lse]: Part, [more, moreLse]: Part): Part {
  const share = moreLse.sub(lse).sigmoid().transpose(1, 2).unsqueeze(-1);
  return [out.to(lse.dtype).lerp(more.to(lse.dtype), share).to(out.dtype), lse.logaddexp(moreLse)];
}

describe.each(DTYPES)("parts of a split softmax in %s: merged, they are the whole in float64", (dtype) => {
  /** The worst errors of out and gradients (as shares of the largest), from a run on the device and whole attention. */
  function errors(actual: Tensor[], expected: Tensor[]): number {
    const floor = Math.max(...expected.slice(1).map((x) => 0.05 * x.abs().amax().item()));
    return Math.max(...actual.map((x, i) => relativeError(x, expected[i], floor)));
  }

  function whole(operator: string, qkv: Tensor[], grad: Tensor, ...options: unknown[]): Tensor[] {
    const leaves = qkv.map((x) => x.detach().double().requiresGrad_());
    const out = diffcoder[operator](...leaves, ...options) as Tensor;
    return [out.detach(), ...(torch.grad([out], leaves, { gradOutputs: [grad.double()] }) as Tensor[])];
  }

  it.each(BLOCKS)("block diffusion, B %i: a piece's own keys, and the clean ones before it", (block) => {
    torch.scope(() => {
      const [length, from] = [160, 64];
      for (const documents of [null, [0, 160 - 32, 160]]) {
        for (const asking of [2, 1]) {
          const shape = { batch: 1, length, heads: 4, keyHeads: 2, headDim: 64 };
          const qkv = inputs(shape, asking * length, 2 * length, dtype);
          const grad = new Draw(12).normal([1, asking * length, 4, 64], dtype);
          const operator = "block_diffusion_attention_reference";
          const [out, dq, dk, dv] = whole(operator, qkv, grad, block, documents, null);
          const starts = (n: number) => Array.from({ length: n }, (_, half) => half * length + from);
          const piece = (x: Tensor, n = 2) =>
            torch.cat(
              starts(n).map((start) => x.narrow(1, start, length - from)),
              1,
            );
          const earlier = (x: Tensor) => x.narrow(1, length, from);
          const here = (x: Tensor) => x.to(device);
          const [q, k, v] = [piece(qkv[0], asking), piece(qkv[1]), piece(qkv[2])].map(here);
          const [kBefore, vBefore] = [earlier(qkv[1]), earlier(qkv[2])].map(here);
          const settings = [block, documents && [0, 160 - 32 - from, 160 - from], null];
          const own = diffcoder.block_diffusion_attention_forward(q, k, v, ...settings) as Part;
          // Only the first document begins before the piece.
          const seeing = documents ? 160 - 32 - from : length - from;
          const runs = Array.from({ length: asking }, (_, half) => half * (length - from));
          const [merged, lse] = [own[0].clone(), own[1].clone()];
          for (const start of runs) {
            const asked = q.narrow(1, start, seeing);
            const more = diffcoder.attention_forward(asked, kBefore, vBefore, null) as Part;
            const [a, b] = merge([merged.narrow(1, start, seeing), lse.narrow(2, start, seeing)], more);
            merged.narrow(1, start, seeing).copy_(a);
            lse.narrow(2, start, seeing).copy_(b);
          }
          const g = here(piece(grad, asking));
          const mine = diffcoder.block_diffusion_attention_backward(g, q, k, v, merged, lse, ...settings) as Gradients;
          for (const start of runs) {
            const cut = (x: Tensor) => x.narrow(1, start, seeing);
            const results = [cut(merged), lse.narrow(2, start, seeing)];
            const asked = [cut(g), cut(q), kBefore, vBefore];
            const [more] = diffcoder.attention_backward(...asked, ...results, null) as Gradients;
            cut(mine[0]).add_(more);
          }
          const expected = [piece(out, asking), piece(dq, asking), piece(dk), piece(dv)];
          const title = `${asking} halves ask, documents ${documents}`;
          expect(errors([merged, ...mine], expected), title).toBeLessThan(tolerance[dtype]);
        }
      }
    });
  });

  it("causal, and attention without a mask of few queries to many keys", () => {
    torch.scope(() => {
      for (const [name, shape] of Object.entries(SHAPES)) {
        const { length, batch, heads, headDim } = shape;
        if (shape.documents || length < 3) continue;
        const qkv = inputs(shape, length, length, dtype);
        const grad = new Draw(12).normal([batch, length, heads, headDim], dtype);
        const [out, dq, dk, dv] = whole("causal_attention_reference", qkv, grad, null, null);
        for (const from of [1, length - 1]) {
          const late = (x: Tensor) => x.narrow(1, from, length - from);
          const [q, k, v, g] = [...qkv, grad].map((x) => late(x).to(device));
          const [kBefore, vBefore] = [qkv[1], qkv[2]].map((x) => x.narrow(1, 0, from).to(device));
          const own = diffcoder.causal_attention_forward(q, k, v, null, null) as Part;
          const [merged, lse] = merge(own, diffcoder.attention_forward(q, kBefore, vBefore, null) as Part);
          const mine = diffcoder.causal_attention_backward(g, q, k, v, merged, lse, null, null) as Gradients;
          const [more] = diffcoder.attention_backward(g, q, kBefore, vBefore, merged, lse, null) as Gradients;
          const actual = [merged, mine[0].add(more), mine[1], mine[2]];
          expect(errors(actual, [out, dq, dk, dv].map(late)), `${name}, from ${from}`).toBeLessThan(tolerance[dtype]);
        }
      }
    });
  });
});

describe("what the operators promise", () => {
  const shape = { batch: 1, length: 64, heads: 4, keyHeads: 2, headDim: 64 };
  const attend = (qkv: Tensor[], documents: number[] | null = null) =>
    diffcoder.block_diffusion_attention(...qkv, 4, documents, null) as Tensor;

  it.each(["float32", "bfloat16"] as const)(
    "%s: a later block leaves earlier outputs as they are, bit for bit",
    (dtype) => {
      torch.scope(() => {
        const qkv = inputs(shape, 128, 128, dtype).map((input) => input.to(device));
        const before = attend(qkv);
        // Noisy and clean positions from the tenth block on are other ones.
        const changed = qkv.map((input) => {
          const copy = input.clone();
          for (const half of [0, 64]) copy.narrow(1, half + 40, 24).mul_(-3);
          return copy;
        });
        const after = attend(changed);
        for (const half of [0, 64]) {
          expect(after.narrow(1, half, 40).equal(before.narrow(1, half, 40))).toBe(true);
          expect(after.narrow(1, half + 40, 24).equal(before.narrow(1, half + 40, 24))).toBe(false);
        }
      });
    },
  );

  it.each(["float32", "bfloat16"] as const)("%s: another document leaves outputs as they are, bit for bit", (dtype) => {
    torch.scope(() => {
      const qkv = inputs(shape, 128, 128, dtype).map((input) => input.to(device));
      const documents = [0, 23, 64];
      const before = attend(qkv, documents);
      const changed = qkv.map((input) => {
        const copy = input.clone();
        for (const half of [0, 64]) copy.narrow(1, half, 23).mul_(-3);
        return copy;
      });
      const after = attend(changed, documents);
      for (const half of [0, 64]) {
        expect(after.narrow(1, half + 23, 41).equal(before.narrow(1, half + 23, 41))).toBe(true);
        expect(after.narrow(1, half, 23).equal(before.narrow(1, half, 23))).toBe(false);
      }
    });
  });

  it("takes parts of larger tensors", () => {
    const part = (x: Tensor) => x.narrow(1, 2, 32).narrow(2, 1, 4);
    const run = (operator: string) => (q: Tensor, k: Tensor, v: Tensor) =>
      diffcoder[operator](part(q), part(k), part(v), 4, null, null) as Tensor;
    for (const dtype of ["float32", "bfloat16"] as const) {
      const qkv = inputs({ ...shape, heads: 6, keyHeads: 6 }, 36, 36, dtype);
      const { forward, backward } = compare(
        qkv,
        run("block_diffusion_attention"),
        run("block_diffusion_attention_reference"),
      );
      expect(forward).toBeLessThan(tolerance[dtype]);
      expect(backward).toBeLessThan(tolerance[dtype]);
    }
  });

  it("has a gradient as good as its own in float32 at a training length", () => {
    torch.scope(() => {
      const length = sized(1024, 48);
      const qkv = inputs({ batch: 1, length, heads: 8, keyHeads: 2, headDim: 128 }, 2 * length, 2 * length, "bfloat16");
      const draw = new Draw(12);
      const seed = draw.normal([1, 2 * length, 8, 128], "bfloat16").to(device);
      const run = (operator: string, dtype: Compared) => {
        const leaves = qkv.map((input) => input.to({ device, dtype, copy: true }).requiresGrad_());
        const out = diffcoder[operator](...leaves, 4, null, null) as Tensor;
        return [out, ...torch.grad([out], leaves, { gradOutputs: [seed.to(dtype)] })] as Tensor[];
      };
      const ours = run("block_diffusion_attention", "bfloat16");
      const theirs = run("block_diffusion_attention_reference", "float32");
      const errors = ours.map((tensor, i) => relativeError(tensor, theirs[i]));
      record(
        `block_diffusion_attention bf16 L ${length}: error of out, dq, dk, dv`,
        errors.map((e) => e.toExponential(1)).join(", "),
      );
      for (const error of errors) expect(error).toBeLessThan(tolerance.bfloat16);
    });
  });
});

describe("how long it takes, against attention with a dense mask", () => {
  const lengths = sized([1024, 2048, 4096], [32]);

  /** The same attention by scaled_dot_product_attention and a 2L x 2L mask, keys repeated for the grouped heads. */
  function dense(mask: Tensor, group: number) {
    return (q: Tensor, k: Tensor, v: Tensor) => {
      const [keys, values] = [k, v].map((x) => x.repeatInterleave(group, 2).transpose(1, 2));
      return torch.scaledDotProductAttention(q.transpose(1, 2), keys, values, mask).transpose(1, 2);
    };
  }

  function blockMask(length: number, blockSize: number): Tensor {
    const block = torch.arange(length, { device }).div(blockSize, { roundingMode: "floor" });
    const same = block.unsqueeze(1).eq(block.unsqueeze(0));
    const earlier = block.unsqueeze(1).gt(block.unsqueeze(0));
    const noisy = torch.cat([same, earlier], 1);
    const clean = torch.cat([torch.zerosLike(same), same.logicalOr(earlier)], 1);
    return torch.cat([noisy, clean], 0);
  }

  it.each(lengths)("L %i, 32 heads of 128 on 8, bf16, B 4: forward and backward", (length) => {
    torch.scope(() => {
      const [heads, keyHeads] = sized([32, 8], [4, 2]);
      const shape = { batch: 1, length, heads, keyHeads, headDim: 128 };
      const leaves = inputs(shape, 2 * length, 2 * length, "bfloat16").map((x) =>
        x.to({ device, copy: true }).requiresGrad_(),
      );
      const seed = torch.randn(leaves[0].shape, { device, dtype: "bfloat16" });
      const ours = (q: Tensor, k: Tensor, v: Tensor) =>
        diffcoder.block_diffusion_attention(q, k, v, 4, null, null) as Tensor;
      const theirs = dense(blockMask(length, 4), heads / keyHeads);
      const [a, b] = [ours, theirs].map((attend) => attend(leaves[0], leaves[1], leaves[2]));
      expect(relativeError(a, b)).toBeLessThan(tolerance.bfloat16);

      const figures = [ours, theirs].map((attend) => {
        const forward = () => torch.noGrad(() => void attend(leaves[0], leaves[1], leaves[2]));
        const both = () => {
          const out = attend(leaves[0], leaves[1], leaves[2]);
          torch.grad([out], leaves, { gradOutputs: [seed] });
        };
        torch.scope(both);
        memory.reset();
        const before = memory.allocated();
        torch.scope(both);
        const extra = memory.peak() - before;
        return { forward: milliseconds(forward), both: milliseconds(both), extra };
      });
      const [fast, slow] = figures;
      const name = `block diffusion attention, L ${length} (2L positions), ${heads} heads of 128 on ${keyHeads}, bf16`;
      record(
        `${name}, forward`,
        `${fast.forward.toFixed(3)} ms, dense mask ${slow.forward.toFixed(3)} ms (${(slow.forward / fast.forward).toFixed(1)}x)`,
      );
      record(
        `${name}, forward and backward`,
        `${fast.both.toFixed(3)} ms, dense mask ${slow.both.toFixed(3)} ms (${(slow.both / fast.both).toFixed(1)}x)`,
      );
      record(
        `${name}, memory beyond the inputs`,
        `${(fast.extra / 1e6).toFixed(0)} MB, dense mask ${(slow.extra / 1e6).toFixed(0)} MB`,
      );
      expect(Number.isFinite(fast.both)).toBe(true);
    });
  });
});
