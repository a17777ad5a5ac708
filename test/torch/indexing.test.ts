// index and indexPut_ against a model on nested arrays; golden.test.ts holds Python's own answers.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import * as torch from "../../lib/torch/index.js";
import { leftBehind, torchError } from "./support.js";

type Nested = number | Nested[];
type Basic = number | torch.Slice | null | "...";

const size = (shape: readonly number[]) => shape.reduce((product, n) => product * n, 1);

function nested(shape: readonly number[], next: () => number): Nested {
  return shape.length === 0 ? next() : Array.from({ length: shape[0] }, () => nested(shape.slice(1), next));
}

/** Python's slice(...).indices(length), for positive steps. */
function positions({ start, end, step }: torch.Slice, length: number): number[] {
  const wrap = (bound: number) => Math.max(0, Math.min(length, bound < 0 ? bound + length : bound));
  const result: number[] = [];
  for (let i = wrap(start ?? 0); i < wrap(end ?? length); i += step) result.push(i);
  return result;
}

/** What `[...]` takes out of nested arrays. */
function model(value: Nested, indices: readonly Basic[]): Nested {
  if (indices.length === 0) return value;
  const [index, ...rest] = indices;
  if (index === null) return [model(value, rest)];
  const list = value as Nested[];
  if (typeof index === "number") return model(list[index < 0 ? index + list.length : index], rest);
  return positions(index as torch.Slice, list.length).map((i) => model(list[i], rest));
}

const dims = fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 4 });
const bound = fc.option(fc.integer({ min: -6, max: 6 }));
const slices = fc.tuple(bound, bound, fc.integer({ min: 1, max: 3 })).map(([a, b, step]) => torch.slice(a, b, step));

/** A shape and indices that fit it, with new dimensions anywhere and at most one "...". */
const cases = dims.chain((shape) =>
  fc
    .record({
      used: fc.integer({ min: 0, max: shape.length }),
      picks: fc.tuple(...shape.map((n) => fc.oneof(slices, fc.integer({ min: -n, max: n - 1 })))),
      ellipsis: fc.option(fc.nat(4)),
      added: fc.array(fc.nat(6), { maxLength: 2 }),
    })
    .map(({ used, picks, ellipsis, added }) => {
      // Indices before "..." count from the front, those behind it from the back.
      const front = ellipsis === null ? used : Math.min(ellipsis, used);
      const indices: Basic[] = [...picks.slice(0, front)];
      const full: Basic[] = [...picks.slice(0, front), ...shape.slice(used).map(() => torch.slice())];
      if (ellipsis !== null) indices.push("...");
      indices.push(...picks.slice(shape.length - (used - front)));
      full.push(...picks.slice(shape.length - (used - front)));
      if (ellipsis === null) {
        for (const place of added) {
          const at = Math.min(place, indices.length);
          indices.splice(at, 0, null);
          full.splice(at, 0, null);
        }
      }
      return { shape, indices, full };
    }),
);

describe("properties", () => {
  it("numbers, slices, null and ... take what the model takes, as a view", () => {
    fc.assert(
      fc.property(cases, ({ shape, indices, full }) => {
        torch.scope(() => {
          let count = 0;
          const whole = torch.arange(size(shape), { dtype: "float32" }).view(shape);
          const part = whole.index(...indices);
          expect(part.tolist()).toEqual(
            model(
              nested(shape, () => count++),
              full,
            ),
          );
          whole.add_(100);
          if (part.numel() > 0) expect(part.amin().item()).toBeGreaterThanOrEqual(100);
        });
      }),
      { numRuns: 300 },
    );
  });

  it("indexPut_ writes exactly what index reads", () => {
    fc.assert(
      fc.property(cases, fc.boolean(), ({ shape, indices }, accumulate) => {
        torch.scope(() => {
          const whole = torch.zeros(shape);
          const chosen = torch
            .arange(size(shape))
            .view(shape)
            .index(...indices);
          const value = torch.arange(chosen.numel(), { dtype: "float32" }).add(1).view(chosen.shape);
          whole.indexPut_(indices, value, accumulate);
          const expected = new Float32Array(size(shape));
          Array.from(chosen.toTypedArray(), Number).forEach((place, i) => {
            expected[place] = i + 1;
          });
          expect(whole.toTypedArray()).toEqual(expected);
        });
      }),
    );
  });

  it("tensors of indices take rows in their order, and accumulate counts repeats", () => {
    const rows = fc.integer({ min: 1, max: 5 });
    fc.assert(
      fc.property(
        rows.chain((n) => fc.tuple(fc.constant(n), fc.array(fc.integer({ min: -n, max: n - 1 }), { maxLength: 8 }))),
        ([n, picks]) => {
          torch.scope(() => {
            const table = torch.arange(n * 2, { dtype: "float32" }).view([n, 2]);
            const ids = torch.tensor(picks, { dtype: "int64" });
            const wrapped = picks.map((i) => (i < 0 ? i + n : i));
            expect(table.index(ids).tolist()).toEqual(wrapped.map((i) => [2 * i, 2 * i + 1]));
            const counts = torch.zeros([n]).indexPut_([ids], 1, true);
            expect(counts.tolist()).toEqual(Array.from({ length: n }, (_, i) => wrapped.filter((j) => j === i).length));
          });
        },
      ),
    );
  });

  it("a mask takes where it is true", () => {
    fc.assert(
      fc.property(fc.array(fc.boolean(), { minLength: 1, maxLength: 12 }), (mask) => {
        torch.scope(() => {
          const x = torch.arange(mask.length);
          const kept = mask.flatMap((on, i) => (on ? [i] : []));
          expect(x.index(torch.tensor(mask)).tolist()).toEqual(kept);
          x.indexPut_([torch.tensor(mask)], -1n);
          expect(x.tolist()).toEqual(mask.map((on, i) => (on ? -1 : i)));
        });
      }),
    );
  });
});

describe("assignment", () => {
  it("takes numbers, booleans, bigints, and tensors that broadcast", () => {
    torch.scope(() => {
      const x = torch.zeros([2, 3]);
      x.indexPut_([0], torch.tensor([1, 2, 3]));
      x.indexPut_([1, torch.slice(1)], torch.tensor([9]));
      x.indexPut_([1, 0], torch.tensor([[[7]]]));
      expect(x.tolist()).toEqual([
        [1, 2, 3],
        [7, 9, 9],
      ]);
      const flags = torch.zeros([2], { dtype: "bool" }).indexPut_([1], true);
      expect(flags.tolist()).toEqual([0, 1]);
      const big = torch.zeros([1], { dtype: "int64" }).indexPut_([0], 2n ** 60n + 1n);
      expect(big.toTypedArray()).toEqual(BigInt64Array.of(2n ** 60n + 1n));
    });
  });

  it("keeps the gradient of what was not overwritten, and gives the value its own", () => {
    torch.scope(() => {
      const x = torch.tensor([1, 2, 3], { requiresGrad: true });
      const value = torch.tensor([10], { requiresGrad: true });
      const y = x.mul(2);
      y.indexPut_([torch.slice(1, 2)], value);
      y.mul(torch.tensor([1, 5, 7]))
        .sum()
        .backward();
      expect(x.grad?.tolist()).toEqual([2, 0, 14]);
      expect(value.grad?.tolist()).toEqual([5]);
    });
  });

  it("index carries the gradient", () => {
    torch.scope(() => {
      const x = torch.arange(6, { dtype: "float32" }).view([2, 3]).requiresGrad_();
      x.index(torch.tensor([1n, 1n, 0n]), torch.slice(0, 2))
        .sum()
        .backward();
      expect(x.grad?.tolist()).toEqual([
        [1, 1, 0],
        [2, 2, 0],
      ]);
    });
  });
});

describe("errors", () => {
  it.each<[string, unknown[], torch.TorchErrorCode, RegExp]>([
    [
      "a number past the end",
      [3],
      "TORCH_INDEX",
      /index 3 is out of bounds for dimension 0 with size 3\n {2}called with Tensor\(\[3, ?4\]/,
    ],
    ["a negative number past the start", [0, -5], "TORCH_INDEX", /index -5 is out of bounds for dimension 1/],
    ["too many indices", [0, 0, 0], "TORCH_INDEX", /too many indices/],
    ["two ellipses", ["...", 0, "..."], "TORCH_INDEX", /"\.\.\." appears twice/],
    ["a fraction", [0.5], "TORCH_ARGUMENT", /index 0 is 0.5/],
    ["NaN", [0, Number.NaN], "TORCH_ARGUMENT", /index 1 is NaN/],
    ["undefined", [undefined], "TORCH_ARGUMENT", /index 0 \(undefined\) is not a number, slice/],
    ["a string", ["1:2"], "TORCH_ARGUMENT", /index 0 \(1:2\)/],
    ["an array", [[0, 1]], "TORCH_ARGUMENT", /index 0 \(0,1\)/],
    ["a tensor of floats", [torch.tensor([0.5])], "TORCH_INDEX", /tensors used as indices must be/],
    ["a mask of another size", [torch.tensor([true])], "TORCH_INDEX", /shape of the mask \[1\]/],
    ["an index tensor past the end", [torch.tensor([5n])], "TORCH_INDEX", /index 5 is out of bounds/],
    [
      "index tensors that do not broadcast",
      [torch.tensor([0n, 1n]), torch.tensor([0n, 1n, 2n])],
      "TORCH_INDEX",
      /broadcast/,
    ],
    ["2,000 indices", new Array(2000).fill(null), "TORCH_INDEX", /too many indices/],
  ])("%s", (_, indices, code, message) => {
    expect(
      leftBehind(() =>
        torch.scope(() => {
          const x = torch.zeros([3, 4]);
          expect(() => x.index(...(indices as torch.Index[]))).toThrowError(torchError(code, message));
          expect(() => x.indexPut_(indices as torch.Index[], 1)).toThrowError(torchError(code, message));
        }),
      ),
    ).toBe(0);
  });

  it("slice() refuses steps that are not positive, and bounds that are no integers", () => {
    for (const step of [0, -1, 0.5, Number.NaN])
      expect(() => torch.slice(0, 1, step)).toThrowError(torchError("TORCH_VALUE"));
    for (const end of [0.5, Number.NaN, "1"])
      expect(() => torch.slice(0, end as number)).toThrowError(torchError("TORCH_ARGUMENT"));
    torch.scope(() => {
      const x = torch.arange(3);
      expect(x.index(torch.slice(-1e300, 1e300)).tolist()).toEqual([0, 1, 2]);
    });
  });

  it("a disposed tensor among the indices", () => {
    torch.scope(() => {
      const x = torch.zeros([3]);
      const ids = torch.tensor([0n]);
      ids.dispose();
      expect(() => x.index(ids)).toThrowError(
        torchError("TORCH_DISPOSED", /index 0 is a tensor that was disposed/, "index"),
      );
      const value = torch.tensor([1]);
      value.dispose();
      expect(() => x.indexPut_([0], value)).toThrowError(torchError("TORCH_DISPOSED", /Tensor\(disposed\)/));
    });
  });

  it("a value that does not fit", () => {
    torch.scope(() => {
      const x = torch.zeros([3, 4]);
      expect(() => x.indexPut_([0], torch.zeros([3]))).toThrowError(
        torchError("TORCH_ERROR", /Tensor\(\[3, ?4\].*Tensor\(\[3\]/s),
      );
      expect(() => x.indexPut_([0], "1" as unknown as number)).toThrowError(
        torchError("TORCH_ARGUMENT", /must be a number/),
      );
      expect(() => x.indexPut_([torch.tensor([0n])], torch.zeros([1, 4], { dtype: "float64" }))).toThrowError(
        torchError("TORCH_ERROR", /dtypes match/),
      );
    });
  });
});
