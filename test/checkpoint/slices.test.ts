import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  coverProblem,
  isWhole,
  overlap,
  sliceProblem,
  type TensorSlice,
  viewOf,
  volume,
  wholeSlice,
} from "../../lib/distributed/tensor-slice.js";
import * as torch from "../../lib/torch/index.js";
import { gridOf } from "./grids.js";

const slice = (shape: number[], offset: number[], size: number[]): TensorSlice => ({ shape, offset, size });

describe("a slice", () => {
  it("is inside its tensor", () => {
    expect(sliceProblem(slice([4, 3], [1, 0], [3, 3]))).toBeUndefined();
    expect(sliceProblem(slice([4, 3], [4, 0], [0, 3]))).toBeUndefined();
    expect(sliceProblem(slice([], [], []))).toBeUndefined();
    expect(sliceProblem(slice([4, 3], [2, 0], [3, 3]))).toMatch(/are outside shape \[4,3\]/);
    expect(sliceProblem(slice([4, 3], [-1, 0], [1, 3]))).toMatch(/are outside/);
    expect(sliceProblem(slice([4, 3], [0.5, 0], [1, 3]))).toMatch(/are outside/);
    expect(sliceProblem(slice([4, 3], [0], [1, 3]))).toMatch(/another number of dimensions/);
  });

  it("may be the whole", () => {
    expect(isWhole(wholeSlice([2, 3]))).toBe(true);
    expect(isWhole(wholeSlice([]))).toBe(true);
    expect(isWhole(slice([2, 3], [0, 0], [2, 2]))).toBe(false);
  });

  it("shares with another what an element-wise look finds", () => {
    const range = fc.tuple(fc.nat(5), fc.nat(5)).map(([a, b]) => [Math.min(a, b), Math.abs(a - b)]);
    const arbitrary = fc.array(range, { minLength: 2, maxLength: 2 });
    fc.assert(
      fc.property(arbitrary, arbitrary, (a, b) => {
        const [first, second] = [a, b].map((ranges) =>
          slice(
            [6, 6],
            ranges.map(([o]) => o),
            ranges.map(([, s]) => s),
          ),
        );
        const elements = (part: TensorSlice | null) => {
          const found: string[] = [];
          for (let i = 0; part && i < part.size[0]; i++) {
            for (let j = 0; j < part.size[1]; j++) found.push(`${part.offset[0] + i} ${part.offset[1] + j}`);
          }
          return found;
        };
        const there = new Set(elements(second));
        const shared = overlap(first, second);
        expect(elements(shared)).toEqual(elements(first).filter((element) => there.has(element)));
        expect(shared === null || volume(shared.size) > 0).toBe(true);
      }),
    );
  });

  it("of a local tensor is a view of it", () => {
    torch.scope(() => {
      const tensor = torch.arange(12).view([3, 4]);
      const local = slice([9, 8], [2, 4], [3, 4]);
      expect(viewOf(tensor, local, slice([9, 8], [3, 5], [2, 2])).tolist()).toEqual([
        [5, 6],
        [9, 10],
      ]);
      expect(viewOf(tensor, local, local)).toBe(tensor);
    });
  });
});

describe("slices", () => {
  it("of a grid cover their tensor, and one less or one twice does not", () => {
    fc.assert(
      fc.property(gridOf([7, 5], 6), fc.nat(), (cells, pick) => {
        const slices = cells.map(({ offset, size }) => slice([7, 5], offset, size));
        expect(coverProblem([7, 5], slices)).toBeUndefined();
        const full = slices.filter(({ size }) => volume(size) > 0);
        const one = full[pick % full.length];
        expect(coverProblem([7, 5], [...slices, one])).toMatch(/overlap/);
        const rest = slices.filter((other) => other !== one);
        expect(coverProblem([7, 5], rest)).toBe(`${volume(one.size)} of its 35 elements are in no slice`);
      }),
    );
  });

  it("of a scalar are one", () => {
    expect(coverProblem([], [slice([], [], [])])).toBeUndefined();
    expect(coverProblem([], [])).toBe("1 of its 1 elements are in no slice");
    expect(coverProblem([], [slice([], [], []), slice([], [], [])])).toMatch(/overlap/);
  });
});
