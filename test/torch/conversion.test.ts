// From JavaScript values to tensors and back.
import { inspect } from "node:util";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import * as torch from "../../lib/torch/index.js";
import { leftBehind, torchError } from "./support.js";

const { NaN: nan, POSITIVE_INFINITY: inf } = Number;

describe("tensor(data)", () => {
  it.each([
    [1.5, "float32", []],
    [true, "bool", []],
    [7n, "int64", []],
    [[1, 2], "float32", [2]],
    [[[1], [2], [3]], "float32", [3, 1]],
    [[true, false], "bool", [2]],
    [[1n, 2n], "int64", [2]],
    [[true, 2n], "int64", [2]],
    [[true, 2], "float32", [2]],
    [[1n, 2.5], "float32", [2]],
    [[], "float32", [0]],
    [[[], []], "float32", [2, 0]],
    [new Float64Array([1, 2]), "float64", [2]],
    [[new Float32Array([1, 2]), new Float32Array([3, 4])], "float32", [2, 2]],
  ] satisfies [torch.TensorData, torch.DType, number[]][])("%o is %s %o", (data, dtype, shape) => {
    using tensor = torch.tensor(data);
    expect(tensor.dtype).toBe(dtype);
    expect(tensor.shape).toEqual(shape);
  });

  it.each([
    [new Uint8Array([0, 255]), "uint8"],
    [new Int8Array([-128, 127]), "int8"],
    [new Uint16Array([0, 65535]), "uint16"],
    [new Int16Array([-32768, 32767]), "int16"],
    [new Uint32Array([0, 4294967295]), "uint32"],
    [new Int32Array([-2147483648, 2147483647]), "int32"],
    [new BigInt64Array([-(2n ** 63n), 2n ** 63n - 1n]), "int64"],
    [new BigUint64Array([0n, 2n ** 64n - 1n]), "uint64"],
    [new Float32Array([nan, -0]), "float32"],
    [new Float64Array([inf, 1e-320]), "float64"],
    [Buffer.from([1, 2]), "uint8"],
    [new Uint8ClampedArray([1, 2]) as unknown as Uint8Array, "uint8"],
  ] satisfies [torch.TypedArray, torch.DType][])("%o keeps its bits as %s", (array, dtype) => {
    using tensor = torch.tensor(array);
    expect(tensor.dtype).toBe(dtype);
    expect(tensor.shape).toEqual([2]);
    expect(Array.from<number | bigint>(tensor.toTypedArray())).toEqual(Array.from<number | bigint>(array));
  });

  it("takes a part of a larger buffer, and copies it", () => {
    const buffer = new ArrayBuffer(64);
    const whole = new Float32Array(buffer);
    whole.set(Array.from({ length: 16 }, (_, i) => i));
    using part = torch.fromTypedArray(whole.subarray(3, 9), [2, 3]);
    using offset = torch.tensor(new Float32Array(buffer, 20, 2));
    whole.fill(-1);
    expect(part.tolist()).toEqual([
      [3, 4, 5],
      [6, 7, 8],
    ]);
    expect(offset.tolist()).toEqual([5, 6]);
    expect(Array.from(part.toTypedArray(), Number)).toHaveLength(6);
  });

  it("takes shared memory", () => {
    const shared = new Int32Array(new SharedArrayBuffer(8));
    shared.set([4, 5]);
    using tensor = torch.tensor(shared);
    expect(tensor.tolist()).toEqual([4, 5]);
  });

  it("in another dtype on request", () => {
    torch.scope(() => {
      expect(torch.tensor([1, 2.7, -2.7], { dtype: "int64" }).tolist()).toEqual([1, 2, -2]);
      expect(torch.tensor([0, 0.5, -1], { dtype: "bool" }).tolist()).toEqual([0, 1, 1]);
      expect(torch.tensor([0n, 5n], { dtype: "bool" }).tolist()).toEqual([0, 1]);
      expect(torch.tensor([true, false], { dtype: "float16" }).dtype).toBe("float16");
      expect(torch.tensor(new Int32Array([1, 2]), { dtype: "bf16" }).dtype).toBe("bfloat16");
      expect(torch.tensor([0.1], { dtype: "float64" }).item()).toBe(0.1);
      expect(torch.tensor([0.1], { dtype: "fp32" }).item()).toBe(Math.fround(0.1));
      expect(torch.tensor([1, 2], { dtype: "complex128" }).dtype).toBe("complex128");
      expect(torch.real(torch.tensor([0.1], { dtype: "complex128" })).item()).toBe(0.1);
      expect(torch.tensor([1, 2], { requiresGrad: true }).requiresGrad).toBe(true);
    });
  });

  it("keeps all 64 bits of integers", () => {
    torch.scope(() => {
      const values = [2n ** 62n + 1n, -(2n ** 63n), 2n ** 53n + 1n];
      expect(torch.tensor(values).toTypedArray()).toEqual(BigInt64Array.from(values));
      expect(torch.tensor(values[0]).add(1n).toTypedArray()).toEqual(BigInt64Array.of(2n ** 62n + 2n));
      expect(torch.full([1], 2n ** 60n + 1n).toTypedArray()).toEqual(BigInt64Array.of(2n ** 60n + 1n));
      expect(torch.tensor([2n ** 64n - 1n], { dtype: "uint64" }).toTypedArray()).toEqual(
        BigUint64Array.of(2n ** 64n - 1n),
      );
      expect(torch.tensor([Number.MAX_SAFE_INTEGER], { dtype: "int64" }).item()).toBe(Number.MAX_SAFE_INTEGER);
    });
  });

  it.each<[string, unknown, torch.TensorOptions, torch.TorchErrorCode, RegExp]>([
    ["a ragged array", [[1, 2], [3]], {}, "TORCH_VALUE", /expected a list of length 2 at depth 1, got one of length 1/],
    ["a number among arrays", [[1], 2], {}, "TORCH_VALUE", /expected a list of length 1 at depth 1, got a number/],
    ["an array among numbers", [1, [2]], {}, "TORCH_VALUE", /expected a number at depth 1, got one of length 1/],
    ["null", null, {}, "TORCH_TYPE", /got null/],
    ["undefined", undefined, {}, "TORCH_TYPE", /got a undefined/],
    ["a string", "12", {}, "TORCH_TYPE", /got a string/],
    ["strings", ["1"], {}, "TORCH_TYPE", /got a string/],
    ["an object", { length: 2 }, {}, "TORCH_TYPE", /got a object/],
    ["null among numbers", [1, null], {}, "TORCH_TYPE", /got null/],
    ["a tensor among numbers", [1, torch.tensor(1)], {}, "TORCH_TYPE", /got a object/],
    ["a hole", new Array(2), {}, "TORCH_TYPE", /got a undefined/],
    ["a DataView", new DataView(new ArrayBuffer(4)), {}, "TORCH_TYPE", /DataView/],
    ["NaN as an integer", [nan], { dtype: "int64" }, "TORCH_VALUE", /NaN does not fit into int64/],
    ["Infinity as an integer", [inf], { dtype: "int32" }, "TORCH_VALUE", /Infinity does not fit into int32/],
    ["256 as uint8", [256], { dtype: "uint8" }, "TORCH_VALUE", /256 does not fit into uint8/],
    ["-1 as uint8", [-1], { dtype: "uint8" }, "TORCH_VALUE", /-1 does not fit into uint8/],
    ["2^63 as int64", [2n ** 63n], {}, "TORCH_VALUE", /9223372036854775808 does not fit into int64/],
    [
      "an unknown dtype",
      [1],
      { dtype: "float31" as "float32" },
      "TORCH_ARGUMENT",
      /unknown dtype "float31": one of .*bfloat16/,
    ],
    ["an unknown device", [1], { device: "tpu9" }, "TORCH_ARGUMENT", /argument 'device' is no device/],
    ["a gradient for integers", [1n], { requiresGrad: true }, "TORCH_ERROR", /floating point/],
  ])("refuses %s", (_, data, options, code, message) => {
    expect(
      leftBehind(() =>
        torch.scope(() => {
          expect(() => torch.tensor(data as torch.TensorData, options)).toThrowError(torchError(code, message));
        }),
      ),
    ).toBe(0);
  });

  it("refuses shapes that are not the data's, before it allocates", () => {
    const data = new Float32Array(4);
    for (const shape of [[5], [2, 3], [1e12], [2 ** 60, 2 ** 60], [], [0]])
      expect(() => torch.fromTypedArray(data, shape)).toThrowError(
        torchError("TORCH_VALUE", /has .* elements, but the data has 4/),
      );
    for (const shape of [[-4], [4.5], [nan], [-2, -2]])
      expect(() => torch.fromTypedArray(data, shape)).toThrowError(
        torchError("TORCH_VALUE", /is not a non-negative integer/),
      );
    expect(() => torch.fromTypedArray(data, new Array(65).fill(1).concat(4))).toThrowError(
      torchError("TORCH_VALUE", /the maximum is 64/),
    );
    const deep = Array.from({ length: 100 }).reduce<unknown>((inner) => [inner], 1) as torch.TensorData;
    expect(() => torch.tensor(deep)).toThrowError(torchError("TORCH_VALUE", /64 dimensions/));
  });
});

describe("back to JavaScript", () => {
  it("toTypedArray, item and tolist of every dtype", () => {
    torch.scope(() => {
      const expected: [torch.DType, object][] = [
        ["bool", Uint8Array],
        ["uint8", Uint8Array],
        ["int8", Int8Array],
        ["uint16", Uint16Array],
        ["int16", Int16Array],
        ["uint32", Uint32Array],
        ["int32", Int32Array],
        ["uint64", BigUint64Array],
        ["int64", BigInt64Array],
        ["float16", Float32Array],
        ["bfloat16", Float32Array],
        ["float8_e4m3fn", Float32Array],
        ["float8_e5m2", Float32Array],
        ["float32", Float32Array],
        ["float64", Float64Array],
      ];
      for (const [dtype, kind] of expected) {
        const tensor = torch.tensor([0, 1], { dtype });
        expect(tensor.dtype).toBe(dtype);
        expect(tensor.toTypedArray().constructor, dtype).toBe(kind);
        expect(tensor.tolist(), dtype).toEqual([0, 1]);
        expect(tensor.index(1).item(), dtype).toBe(1);
      }
    });
  });

  it("reads views, transposes and expanded tensors in row-major order", () => {
    torch.scope(() => {
      const x = torch.arange(12).view([3, 4]);
      expect(x.t().tolist()).toEqual([
        [0, 4, 8],
        [1, 5, 9],
        [2, 6, 10],
        [3, 7, 11],
      ]);
      expect(x.index(torch.slice(1), torch.slice(0, 4, 2)).toTypedArray()).toEqual(BigInt64Array.of(4n, 6n, 8n, 10n));
      expect(
        torch
          .tensor([[1], [2]])
          .expand([2, 2])
          .tolist(),
      ).toEqual([
        [1, 1],
        [2, 2],
      ]);
    });
  });

  it("keeps NaN, the infinities and -0", () => {
    using tensor = torch.tensor([nan, inf, -inf, -0, 0]);
    expect(tensor.tolist()).toEqual([nan, inf, -inf, -0, 0]);
    using half = tensor.half();
    expect(half.tolist()).toEqual([nan, inf, -inf, -0, 0]);
  });

  it("of empty and 0-dimensional tensors", () => {
    torch.scope(() => {
      expect(torch.empty([0]).tolist()).toEqual([]);
      expect(torch.empty([2, 0, 3]).tolist()).toEqual([[], []]);
      expect(torch.empty([0, 3]).tolist()).toEqual([]);
      expect(torch.empty([0]).toTypedArray()).toEqual(new Float32Array(0));
      expect(torch.tensor(5).tolist()).toBe(5);
      expect(torch.tensor(5).shape).toEqual([]);
      expect(torch.tensor([[[5]]]).item()).toBe(5);
    });
  });

  it("asynchronously too", async () => {
    await torch.scope(async () => {
      expect(await torch.tensor([1, 2]).toTypedArrayAsync()).toEqual(Float32Array.of(1, 2));
      expect(await torch.tensor([1.5], { dtype: "bf16" }).toTypedArrayAsync()).toEqual(Float32Array.of(1.5));
      expect(await torch.tensor(3n).itemAsync()).toBe(3);
      await expect(torch.tensor([1, 2]).itemAsync()).rejects.toThrowError(torchError("TORCH_VALUE", /2 elements/));
      await expect(torch.tensor([1], { dtype: "complex64" }).toTypedArrayAsync()).rejects.toThrowError(
        torchError("TORCH_TYPE"),
      );
    });
  });

  it("refuses what has no JavaScript form", () => {
    torch.scope(() => {
      const complex = torch.tensor([1, 2], { dtype: "complex64" });
      expect(() => complex.toTypedArray()).toThrowError(torchError("TORCH_TYPE", /complex64/));
      expect(() => complex.index(0).item()).toThrowError(torchError("TORCH_VALUE", /complex/));
      expect(() => torch.tensor([1, 2]).item()).toThrowError(torchError("TORCH_VALUE", /2 elements/, "item"));
      expect(() => torch.empty([0]).item()).toThrowError(torchError("TORCH_VALUE", /0 elements/));
      expect(() => torch.empty([2], { device: "meta" }).toTypedArray()).toThrowError(
        torchError("TORCH_NOT_IMPLEMENTED", /meta/),
      );
    });
  });

  it("prints itself", () => {
    torch.scope(() => {
      expect(inspect(torch.tensor([[1, 2]]))).toBe("Tensor([1,2], float32, cpu) [ [ 1, 2 ] ]");
      expect(inspect(torch.zeros([100]))).toBe("Tensor([100], float32, cpu)");
      expect(inspect(torch.tensor([1], { requiresGrad: true }))).toContain("requiresGrad");
      expect(inspect(torch.tensor([1], { dtype: "complex64" }))).toBe("Tensor([1], complex64, cpu)");
      expect(inspect(torch.empty([2], { device: "meta" }))).toBe("Tensor([2], float32, meta)");
      const gone = torch.tensor(1);
      gone.dispose();
      expect(inspect(gone)).toBe("Tensor(disposed)");
    });
  });
});

describe("to(...)", () => {
  it("is the same tensor when nothing changes, a copy with copy", () => {
    torch.scope(() => {
      const x = torch.tensor([1, 2]);
      expect(x.to("float32")).toBe(x);
      expect(x.to("fp32")).toBe(x);
      expect(x.to("cpu")).toBe(x);
      expect(x.to({})).toBe(x);
      expect(x.float()).toBe(x);
      const copy = x.to({ copy: true });
      copy.zero_();
      expect(x.tolist()).toEqual([1, 2]);
    });
  });

  it("converts as PyTorch does", () => {
    torch.scope(() => {
      const x = torch.tensor([0, 1.9, -1.9, 300]);
      expect(x.long().tolist()).toEqual([0, 1, -1, 300]);
      expect(x.bool().tolist()).toEqual([0, 1, 1, 1]);
      expect(x.bfloat16().tolist()).toEqual([0, 1.8984375, -1.8984375, 300]);
      expect(x.int().dtype).toBe("int32");
      expect(x.half().dtype).toBe("float16");
      expect(x.double().dtype).toBe("float64");
      expect(x.to("uint8").dtype).toBe("uint8");
      expect(x.to({ dtype: "short", device: "cpu" }).dtype).toBe("int16");
    });
  });

  it("carries the gradient", () => {
    torch.scope(() => {
      const x = torch.tensor([1, 2], { requiresGrad: true });
      x.bfloat16().mul(3).sum().backward();
      expect(x.grad?.tolist()).toEqual([3, 3]);
    });
  });

  it("refuses unknown names", () => {
    torch.scope(() => {
      const x = torch.tensor([1]);
      expect(() => x.to("float33")).toThrowError(torchError("TORCH_ARGUMENT", /float33/, "to"));
      expect(() => x.to({ dtype: "long double" as "long" })).toThrowError(torchError("TORCH_ARGUMENT", /long double/));
    });
  });
});

describe("creation", () => {
  it("has PyTorch's dtypes", () => {
    torch.scope(() => {
      expect(torch.zeros([2]).dtype).toBe("float32");
      expect(torch.arange(3).dtype).toBe("int64");
      expect(torch.arange(0, 1, 0.5).tolist()).toEqual([0, 0.5]);
      expect(torch.arange(5, 0, -2).tolist()).toEqual([5, 3, 1]);
      expect(torch.arange(3, { dtype: "float64" }).dtype).toBe("float64");
      expect(torch.full([2], 7).dtype).toBe("float32");
      expect(torch.full([2], true).dtype).toBe("bool");
      expect(torch.full([2], 7, { dtype: "int32" }).dtype).toBe("int32");
      expect(torch.randint(0, 5, [3]).dtype).toBe("int64");
      expect(torch.randperm(5).dtype).toBe("int64");
      expect(torch.eye(2).tolist()).toEqual([
        [1, 0],
        [0, 1],
      ]);
      expect(torch.eye(1, 3).shape).toEqual([1, 3]);
      expect(torch.linspace(0, 1, 5).tolist()).toEqual([0, 0.25, 0.5, 0.75, 1]);
      expect(torch.zeros([], { requiresGrad: true }).requiresGrad).toBe(true);
    });
  });

  it("like another tensor keeps its dtype and shape", () => {
    torch.scope(() => {
      const x = torch.tensor([[1n, 2n]]);
      const made = [torch.zerosLike(x), torch.onesLike(x), torch.fullLike(x, 4), torch.emptyLike(x)];
      for (const like of made) {
        expect(like.dtype).toBe("int64");
        expect(like.shape).toEqual([1, 2]);
      }
      expect(torch.randLike(torch.zeros([3], { dtype: "float64" })).dtype).toBe("float64");
      expect(torch.zerosLike(x, { dtype: "float16" }).dtype).toBe("float16");
    });
  });
});

// ---- properties

const shapes = fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 });
const size = (shape: readonly number[]) => shape.reduce((product, n) => product * n, 1);

describe("properties", () => {
  it("tolist gives back what tensor took, of any shape", () => {
    const nested = (shape: readonly number[], next: () => number): unknown =>
      shape.length === 0 ? next() : Array.from({ length: shape[0] }, () => nested(shape.slice(1), next));
    fc.assert(
      fc.property(shapes, fc.infiniteStream(fc.float()), (shape, stream) => {
        // A list of no lists has forgotten what its lists looked like.
        const known = shape.includes(0) ? shape.slice(0, shape.indexOf(0) + 1) : shape;
        const data = nested(shape, () => stream.next().value as number) as torch.TensorData;
        using tensor = torch.tensor(data);
        expect(tensor.shape).toEqual(known);
        expect(tensor.tolist()).toEqual(data);
      }),
    );
  });

  it("every 64-bit integer and every double comes back", () => {
    fc.assert(
      fc.property(fc.bigInt64Array(), fc.bigUint64Array(), fc.float64Array(), (signed, unsigned, doubles) => {
        torch.scope(() => {
          expect(torch.tensor(signed).toTypedArray()).toEqual(signed);
          expect(torch.tensor(Array.from(signed)).toTypedArray()).toEqual(signed.length ? signed : new Float32Array());
          expect(torch.tensor(unsigned).toTypedArray()).toEqual(unsigned);
          expect(torch.tensor(Array.from(doubles), { dtype: "float64" }).toTypedArray()).toEqual(doubles);
        });
      }),
    );
  });

  it("subarrays at any offset make the tensor of their elements", () => {
    fc.assert(
      fc.property(fc.int16Array({ minLength: 1, maxLength: 40 }), fc.nat(40), fc.nat(40), (array, a, b) => {
        const part = array.subarray(Math.min(a, b), Math.max(a, b));
        using tensor = torch.fromTypedArray(part);
        expect(tensor.toTypedArray()).toEqual(part);
      }),
    );
  });

  it("integers fit or are refused, never wrapped", () => {
    const bits = fc.constantFrom(
      ["int8", -(2 ** 7), 2 ** 7 - 1],
      ["uint8", 0, 255],
      ["int16", -(2 ** 15), 2 ** 15 - 1],
      ["int32", -(2 ** 31), 2 ** 31 - 1],
      ["uint32", 0, 2 ** 32 - 1],
    ) as fc.Arbitrary<[torch.DType, number, number]>;
    fc.assert(
      fc.property(
        bits,
        fc.oneof(fc.double(), fc.integer(), fc.integer({ min: -300, max: 300 })),
        ([dtype, low, high], value) => {
          const whole = Math.trunc(value);
          if (whole >= low && whole <= high) {
            using tensor = torch.tensor([value], { dtype });
            expect(tensor.item()).toBe(whole + 0);
          } else expect(() => torch.tensor([value], { dtype })).toThrowError(torchError("TORCH_VALUE"));
        },
      ),
    );
  });

  it("views of any shape hold the same elements", () => {
    fc.assert(
      fc.property(shapes, (shape) => {
        torch.scope(() => {
          const flat = torch.arange(size(shape));
          const viewed = flat.view(shape);
          expect(viewed.shape).toEqual(shape);
          expect(viewed.numel()).toBe(size(shape));
          expect(viewed.ndim).toBe(shape.length);
          for (const [dim, n] of shape.entries()) {
            expect(viewed.size(dim)).toBe(n);
            expect(viewed.size(dim - shape.length)).toBe(n);
          }
          expect(viewed.toTypedArray()).toEqual(flat.toTypedArray());
          expect(() => viewed.size(shape.length)).toThrowError(torchError("TORCH_INDEX"));
        });
      }),
    );
  });
});
