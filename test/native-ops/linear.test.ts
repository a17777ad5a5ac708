import fc from "fast-check";
import { describe, expect, it } from "vitest";
import * as torch from "../../lib/torch/index.js";
import { compare, DTYPES, diffcoder, difference, normal, TOLERANCE } from "./support.js";

const linear = diffcoder.linear as (...args: (torch.Tensor | null)[]) => torch.Tensor;

describe("diffcoder::linear", () => {
  it("is x W^T + b for any number of rows, inputs and outputs", () => {
    const size = fc.integer({ min: 1, max: 70 });
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 11 }), size, size, fc.boolean(), (rows, inputs, outputs, hasBias) => {
        torch.scope(() => {
          const [x, weight] = [normal([rows, inputs], "float32", 1), normal([outputs, inputs], "float32", 2)];
          const bias = hasBias ? normal([outputs], "float32", 3) : null;
          const expected = torch.linear(x.double(), weight.double(), bias?.double()).float();
          const actual = torch.noGrad(() => linear(x, weight, bias));
          expect(difference(actual, expected)).toBeLessThan(TOLERANCE.float32);
        });
      }),
      { numRuns: 150 },
    );
  });

  it("gives a row the same bits alone and among others", () => {
    for (const [inputs, outputs] of [
      [67, 35],
      [768, 256],
      [3072, 20],
    ]) {
      const [x, weight] = [normal([530, inputs], "float32", 1), normal([outputs, inputs], "float32", 2)];
      torch.noGrad(() => {
        const all = linear(x, weight, null);
        for (const [from, count] of [
          [0, 1],
          [1, 2],
          [4, 3],
          [9, 4],
          [17, 5],
          [100, 61],
          [529, 1],
        ]) {
          expect(linear(x.narrow(0, from, count), weight, null).equal(all.narrow(0, from, count))).toBe(true);
        }
        const threads = torch.getNumThreads();
        torch.setNumThreads(threads === 1 ? 2 : 1);
        expect(linear(x, weight, null).equal(all)).toBe(true);
        torch.setNumThreads(threads);
      });
    }
  });

  it("takes any layout of x and of weights, and any number of dimensions", () => {
    const x = normal([6, 5, 33], "float32", 1);
    const weight = normal([33, 21], "float32", 2).t();
    torch.noGrad(() => {
      const expected = linear(x.transpose(0, 1).contiguous(), weight.contiguous(), null);
      expect(difference(linear(x.transpose(0, 1), weight, null), expected)).toBeLessThan(TOLERANCE.float32);
      expect(linear(normal([33], "float32", 3), weight.contiguous(), null).shape).toEqual([21]);
      expect(linear(torch.zeros([2, 0, 33]), weight.contiguous(), null).shape).toEqual([2, 0, 21]);
    });
  });

  it("spreads NaN to the rows that hold one, and to no other", () => {
    const x = torch.zeros([5, 20]);
    x.index(3, 7).fill_(Number.NaN);
    const y = torch.noGrad(() => linear(x, torch.zeros([9, 20]), null));
    expect(y.isnan().all(1).tolist()).toEqual([0, 0, 0, 1, 0]);
    expect(y.isnan().any(1).tolist()).toEqual([0, 0, 0, 1, 0]);
  });

  it.each(DTYPES)("is torch.linear where a gradient is wanted, in %s", (dtype) => {
    const inputs = [normal([4, 7, 12], dtype, 1), normal([5, 12], dtype, 2), normal([5], dtype, 3)];
    expect(compare(linear, (x, weight, bias) => torch.linear(x, weight, bias), inputs)).toBe(0);
  });

  it("computes in autocast's dtype", () => {
    const [x, weight] = [normal([3, 8], "float32", 1), normal([4, 8], "float32", 2)];
    const narrow = torch.autocast({ device: "cpu", dtype: "bfloat16" }, () =>
      torch.noGrad(() => linear(x, weight, null)),
    );
    expect(narrow.dtype).toBe("bfloat16");
  });

  it("refuses what does not fit with PyTorch's message", () => {
    const call = (...shapes: number[][]) => torch.noGrad(() => linear(...shapes.map((shape) => torch.zeros(shape))));
    expect(() => call([3, 4], [5, 6])).toThrow(/mat1 and mat2 shapes cannot be multiplied \(3x4 and 6x5\)/);
    expect(() => call([3, 4], [5, 4], [6])).toThrow(/expand|size/);
  });
});
