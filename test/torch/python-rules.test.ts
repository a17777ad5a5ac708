// What PyTorch's users expect of the names they know: the overload that Python calls, no option dropped, no value that is
// silently another, and no argument that ends the process.
import { describe, expect, it } from "vitest";
import * as nn from "../../lib/nn/index.js";
import { asBytes } from "../../lib/torch/bytes.js";
import * as torch from "../../lib/torch/index.js";
import { torchError } from "./support.js";

// biome-ignore lint/suspicious/noExplicitAny: calls that the types refuse
const untyped = torch as any;
const refused = (message?: RegExp) => torchError("TORCH_ARGUMENT", message);
const inScope = (name: string, run: () => void) => it(name, () => torch.scope(run));

describe("the overload", () => {
  inScope("random_(10) is below 10, random_(5, 10) from 5 on", () => {
    const x = torch.zeros([1000], { dtype: "int64" });
    expect(x.random_(10).max().item()).toBeLessThan(10);
    expect(x.random_(5, 10).min().item()).toBeGreaterThanOrEqual(5);
    expect(x.random_().gt(10).any().item()).toBe(1);
  });

  inScope("bernoulli with out takes the tensor's probabilities", () => {
    const out = torch.empty([0]);
    expect(untyped.bernoulli(torch.zeros([1000]), { out })).toBe(out);
    expect(out.sum().item()).toBe(0);
    expect(
      untyped
        .bernoulli(torch.zeros([1000]), 1)
        .sum()
        .item(),
    ).toBe(1000);
  });

  inScope("methods whose schema has self elsewhere: where, polygamma", () => {
    const a = torch.tensor([true, false, false]);
    const c = torch.tensor([false, true, true]);
    const y = torch.tensor([false, false, true]);
    expect(a.where(c, y).tolist()).toEqual([0, 0, 0]);
    expect(
      torch
        .ones([2])
        .where(torch.tensor([true, false]), torch.zeros([2]))
        .tolist(),
    ).toEqual([1, 0]);
    expect(
      torch
        .ones([2])
        .where(torch.tensor([true, false]), 7)
        .tolist(),
    ).toEqual([1, 7]);
    const x = torch.ones([1]);
    expect(x.polygamma(1).item()).toBeCloseTo(1.6449, 4);
    expect(x.polygamma_(1)).toBe(x);
    expect(x.item()).toBeCloseTo(1.6449, 4);
    expect(torch.polygamma(1, torch.ones([1])).item()).toBeCloseTo(1.6449, 4);
  });

  inScope("what is nullable but has no default must be given, as in Python", () => {
    expect(() => untyped.ones([2]).clampMin()).toThrowError(refused(/missing/));
    expect(() => untyped.norm(torch.ones([2]), undefined, [0])).toThrowError(refused());
  });

  inScope("named results", () => {
    const x = torch.tensor([[1, 3, 2]]);
    const result = x.max(1);
    expect([result.values.tolist(), result.indices.tolist()]).toEqual([[3], [1]]);
    const [values, indices] = result;
    expect([values, indices]).toEqual([result.values, result.indices]);
    expect(Array.isArray(result.map((part) => part))).toBe(true);
    expect(torch.linalg.slogdet(torch.eye(2)).logabsdet.item()).toBe(0);
  });

  inScope("a function's self is Python's input, too", () => {
    expect((torch.ops.aten.sum({ input: torch.ones([3]) }) as torch.Tensor).item()).toBe(3);
  });
});

describe("to", () => {
  inScope("takes what Python's takes", () => {
    const x = torch.ones([1, 2, 2, 2]);
    expect(x.to("cpu", "float64").dtype).toBe("float64");
    expect(x.to("float64", false, true).dtype).toBe("float64");
    expect(x.to("float32")).toBe(x);
    expect(x.to("float32", false, true)).not.toBe(x);
    expect(x.to("float32", { copy: true })).not.toBe(x);
    expect(x.to(torch.ones([1], { dtype: "int64" })).dtype).toBe("int64");
    expect(x.to({ dtype: "half", device: "cpu" }).dtype).toBe("float16");
    expect(x.to({ memoryFormat: "channels_last" }).strides).not.toEqual(x.strides);
    expect(x.to("cpu", undefined as never)).toBe(x);
  });

  it.each<[string, unknown[]]>([
    ["a number", [5]],
    ["nothing", []],
    ["an option that there is not", [{ dtyp: "int64" }]],
    ["an option twice", [{ nonBlocking: true, non_blocking: true }]],
    ["a dtype twice", ["float64", { dtype: "int64" }]],
    ["two dtypes", ["float64", "int64"]],
    ["a string that is neither", ["float46"]],
    ["too many", ["cpu", "float64", true, true, true]],
    ["a list", [["float64"]]],
  ])("refuses %s", (_, args) => {
    torch.scope(() => {
      const x = torch.ones([1]);
      expect(() => (x.to as (...args: unknown[]) => unknown)(...args)).toThrowError(refused());
      expect(() => (x.to as (...args: unknown[]) => unknown).apply(x, args)).toThrowError(refused());
    });
  });
});

describe("options", () => {
  it.each<[string, () => unknown]>([
    ["zeros", () => untyped.zeros([1], { requires_grat: true })],
    ["zeros, not an object", () => untyped.zeros(2, 3)],
    ["tensor", () => untyped.tensor([1], { dtyp: "int64" })],
    ["fromTypedArray", () => untyped.fromTypedArray(Float32Array.of(1), [1], { dtyp: "int64" })],
    ["onesLike", () => untyped.onesLike(torch.ones([1]), { generator: 1 })],
    ["arange", () => untyped.arange(0, 4, { dtipe: "int64" })],
    ["arange, a string", () => untyped.arange(5, "float32")],
    ["full", () => untyped.full([1], 1, { pinned: true })],
    ["sum", () => untyped.sum(torch.ones([1]), { dtipe: "int64" })],
    ["stft", () => untyped.stft(torch.ones([100]), 10, { returnComplex: true, centre: true })],
    ["uniqueConsecutive", () => untyped.uniqueConsecutive(torch.ones([1]), { returnIndex: true })],
    [
      "scaledDotProductAttention",
      () =>
        untyped.scaledDotProductAttention(torch.ones([1, 1]), torch.ones([1, 1]), torch.ones([1, 1]), { causal: true }),
    ],
    ["backward", () => untyped.ones([1], { requiresGrad: true }).sum().backward(null, { retain: true })],
    ["grad", () => untyped.grad([torch.ones([1])], [torch.ones([1])], { allow: true })],
    ["autocast", () => untyped.autocast({ device: "cpu", dtyp: "bfloat16" }, () => 1)],
    ["Generator", () => new untyped.Generator({ seed: 1, devise: "cpu" })],
    [
      "crossEntropy",
      () => nn.functional.crossEntropy(torch.ones([1, 2]), torch.tensor([0n]), { ignoreIndx: 0 } as never),
    ],
    [
      "crossEntropy's reduction",
      () => nn.functional.crossEntropy(torch.ones([1, 2]), torch.tensor([0n]), { reduction: "men" as never }),
    ],
    ["gelu", () => nn.functional.gelu(torch.ones([1]), { approx: "tanh" } as never)],
    ["embedding", () => nn.functional.embedding(torch.ones([1, 1]), torch.tensor([0n]), { padding: 0 } as never)],
    [
      "softmax by position",
      () => (nn.functional.softmax as (...args: unknown[]) => unknown)(torch.ones([1]), 0, 3, "float64"),
    ],
    ["AdamW", () => new nn.AdamW([["w", torch.ones([1], { requiresGrad: true })]], { lr: 1e-3 } as never)],
    ["SGD", () => new nn.SGD([["w", torch.ones([1], { requiresGrad: true })]], { dampening: 0.5 } as never)],
    ["a schedule", () => nn.warmupStable(1, { warmpu: 1 } as never)],
  ])("unknown ones are refused: %s", (_, call) => {
    torch.scope(() => expect(call).toThrowError(refused()));
  });

  inScope("PyTorch's spelling is taken, too", () => {
    expect(untyped.zeros([1], { requires_grad: true }).requiresGrad).toBe(true);
    expect(untyped.ones([1]).to({ dtype: "int64", non_blocking: true }).dtype).toBe("int64");
    const loss = nn.functional.crossEntropy(
      torch.tensor([
        [1, 2, 3],
        [3, 2, 1],
      ]),
      torch.tensor([0n, 1n]),
      { ignore_index: 0 } as never,
    );
    expect(loss.item()).toBeCloseTo(1.4076, 4);
  });

  inScope("none is dropped beside another that is false", () => {
    const generator = () => new torch.Generator({ seed: 5 });
    const draw = () => torch.rand([2], { generator: generator(), pinMemory: false });
    expect(torch.equal(draw(), draw())).toBe(true);
  });

  inScope("out is written", () => {
    const out = torch.zeros([4]);
    expect(torch.arange(0, 4, { out })).toBe(out);
    expect(out.tolist()).toEqual([0, 1, 2, 3]);
    expect(torch.ones([2], { out: torch.zeros([2], { dtype: "int64" }) }).dtype).toBe("int64");
  });

  inScope("all of PyTorch's: crossEntropy, embedding, softmax", () => {
    const logits = torch.tensor([
      [1, 2, 3],
      [3, 2, 1],
    ]);
    const classes = torch.tensor([0n, 1n]);
    const loss = (options?: nn.functional.CrossEntropyOptions) =>
      nn.functional.crossEntropy(logits, classes, options).item();
    // torch 2.13
    expect(loss()).toBeCloseTo(1.9076, 4);
    expect(loss({ labelSmoothing: 0.5 })).toBeCloseTo(1.6576, 4);
    expect(loss({ ignoreIndex: 0 })).toBeCloseTo(1.4076, 4);
    expect(loss({ weight: torch.tensor([1, 0, 0]) })).toBeCloseTo(2.4076, 4);
    expect(loss({ reduction: "sum" })).toBeCloseTo(3.8152, 4);
    const table = torch.tensor(
      [
        [3, 4],
        [0, 1],
      ],
      { requiresGrad: true },
    );
    nn.functional
      .embedding(table, torch.tensor([0n, 1n, 1n]), { paddingIdx: -2, scaleGradByFreq: true })
      .sum()
      .backward();
    expect(table.grad?.tolist()).toEqual([
      [0, 0],
      [1, 1],
    ]);
    const short = nn.functional.embedding(torch.tensor([[3, 4]]), torch.tensor([0n]), { maxNorm: 1 });
    expect(short.square().sum().item()).toBeCloseTo(1, 3);
    expect(nn.functional.softmax(torch.ones([2]), 0, { dtype: "float64" }).dtype).toBe("float64");
  });
});

describe("functions that PyTorch writes in Python", () => {
  inScope("stft is centred", () => {
    const x = torch.ones([100]);
    expect(torch.stft(x, 10, { returnComplex: true }).shape).toEqual([6, 51]);
    expect(x.stft(10, { returnComplex: true }).shape).toEqual([6, 51]);
    expect(torch.stft(x, 10, { returnComplex: true, center: false }).shape).toEqual([6, 46]);
    expect(() => torch.stft(x, 10)).toThrowError(/return_complex/);
  });

  inScope("unique and uniqueConsecutive give what was asked for", () => {
    const x = torch.tensor([2, 1, 1]);
    expect(torch.uniqueConsecutive(x).tolist()).toEqual([2, 1]);
    expect(torch.unique(x).tolist()).toEqual([1, 2]);
    expect(x.unique({ returnCounts: true }).map((part) => part.tolist())).toEqual([
      [1, 2],
      [2, 1],
    ]);
    expect(x.uniqueConsecutive({ returnInverse: true, returnCounts: true }).map((part) => part.tolist())).toEqual([
      [2, 1],
      [0, 1, 1],
      [1, 2],
    ]);
    expect(torch.unique(torch.tensor([[1], [1]]), { dim: 0 }).tolist()).toEqual([[1]]);
    expect(() => untyped.unique(x, 5)).toThrowError(refused());
  });

  inScope("where of two numbers is float32", () => {
    const mask = torch.tensor([true, false]);
    expect(torch.where(mask, 1.0, 0.0).dtype).toBe("float32");
    expect(torch.where(mask, 1n, 0n).dtype).toBe("int64");
    expect(torch.where(mask, true, false).dtype).toBe("bool");
    expect(torch.where(mask, torch.tensor([1n, 2n]), 0).dtype).toBe("int64");
    expect(torch.where(mask).map((part) => part.tolist())).toEqual([[0]]);
  });
});

describe("values", () => {
  inScope("negated and conjugated views are read as they are", () => {
    const z = torch.complex(torch.tensor([1]), torch.tensor([3]));
    const negated = torch.imag(z.conj());
    expect(negated.isNeg()).toBe(true);
    expect([negated.tolist(), negated.item()]).toEqual([[-3], -3]);
    expect(negated.toTypedArray()).toEqual(Float32Array.of(-3));
    expect(asBytes(negated).toTypedArray()).toEqual(new Uint8Array(Float32Array.of(-3).buffer));
    expect(asBytes(z.conj()).toTypedArray()).toEqual(new Uint8Array(Float32Array.of(1, -3).buffer));
  });

  inScope("no integer is another beyond 2^53", () => {
    const x = torch.tensor([9007199254740993n]);
    for (const read of [() => x.item(), () => x.tolist(), () => torch.ops.aten._local_scalar_dense(x)])
      expect(read).toThrowError(torchError("TORCH_VALUE", /9007199254740993/));
    expect(x.toTypedArray()).toEqual(BigInt64Array.of(9007199254740993n));
    expect(torch.tensor([2n ** 53n]).item()).toBe(2 ** 53);
    expect(torch.tensor([2n ** 64n - 2048n], { dtype: "uint64" }).tolist()).toEqual([2 ** 64 - 2048]);
    expect(() => torch.tensor([2n ** 64n - 1n], { dtype: "uint64" }).item()).toThrowError(torchError("TORCH_VALUE"));
  });

  inScope("a tensor is no JSON and cannot be cloned", () => {
    const x = torch.ones([1]);
    expect(() => JSON.stringify({ x })).toThrowError(torchError("TORCH_TYPE", /tolist/));
    expect(() => structuredClone({ x })).toThrowError(expect.objectContaining({ name: "DataCloneError" }));
    const { port1 } = new MessageChannel();
    expect(() => port1.postMessage(x)).toThrowError(/toTypedArray/);
    port1.close();
    expect(() => structuredClone(new torch.Generator({ seed: 1 }))).toThrowError(/getState/);
  });
});

describe("arguments that ended the process, or could", () => {
  it("new Tensor", () => {
    for (const data of [[1, 2, 3], 5, undefined, "x"])
      expect(() => new (torch.Tensor as unknown as new (data: unknown) => unknown)(data)).toThrowError(
        refused(/torch\.tensor/),
      );
  });

  inScope("lists that hold themselves", () => {
    const cyclic: unknown[] = [1];
    cyclic.push(cyclic);
    const first: unknown[] = [];
    first.push(first);
    const object: Record<string, unknown> = {};
    object.self = object;
    for (const value of [cyclic, first, object, [object]]) {
      expect(() => untyped.ones([1]).view(value)).toThrowError(refused());
      expect(() => untyped.tensor(value)).toThrowError(expect.objectContaining({ name: "TorchError" }));
    }
  });

  inScope("lists that nest deep, or are huge", () => {
    let deep: unknown = 1;
    for (let i = 0; i < 100_000; i++) deep = [deep];
    expect(() => untyped.tensor(deep)).toThrowError(torchError("TORCH_VALUE", /64/));
    expect(() => untyped.ones([1]).view(deep)).toThrowError(refused());
    expect(() => untyped.ones([1]).view(new Array(2 ** 31))).toThrowError(refused());
    expect(() => untyped.fromTypedArray(Float32Array.of(1), new Array(5000).fill(1))).toThrowError(
      torchError("TORCH_VALUE"),
    );
  });

  inScope("strides beyond what scratch holds, and of sparse tensors", () => {
    const many = torch.ops.aten.view(torch.ones([1]), new Array(5000).fill(1)) as torch.Tensor;
    expect(() => many.strides).toThrowError(torchError("TORCH_VALUE"));
    expect(() => many.shape).toThrowError(torchError("TORCH_VALUE"));
    expect(() => (torch.ops.aten.to_sparse(torch.ones([2, 3])) as torch.Tensor).strides).toThrowError(
      torchError("TORCH_VALUE", /sparse/),
    );
  });

  inScope("getters in lists that call torch", () => {
    const sizes: number[] = [2, 2];
    Object.defineProperty(sizes, 0, {
      enumerable: true,
      get() {
        torch.ones([7, 9]).flip([1, 0]);
        return 2;
      },
    });
    const x = torch.arange(9);
    expect((torch.ops.aten.as_strided(x, [2, 2], sizes) as torch.Tensor).shape).toEqual([2, 2]);
    expect((torch.ops.aten.as_strided(x, sizes, [2, 2]) as torch.Tensor).shape).toEqual([2, 2]);
    expect(torch.fromTypedArray(Float32Array.of(1, 2, 3, 4), sizes).shape).toEqual([2, 2]);
    expect(torch.zeros(sizes).shape).toEqual([2, 2]);
  });

  inScope("proxies that change their minds", () => {
    let reads = 0;
    const list = new Proxy([1, 1], {
      get: (target, key) => (key === "0" && ++reads > 2 ? "x" : Reflect.get(target, key)),
    });
    expect(() => {
      for (let i = 0; i < 4; i++) torch.ones([1]).view(list);
    }).toThrowError(expect.objectContaining({ name: "TorchError" }));
  });

  inScope("memory that was transferred away, is shared, or begins at an odd place", () => {
    const gone = Float32Array.of(1, 2);
    structuredClone(gone.buffer, { transfer: [gone.buffer] });
    expect(() => torch.fromTypedArray(gone)).toThrowError(torchError("TORCH_VALUE", /transferred/));
    expect(() => torch.fromTypedArray(gone, [2])).toThrowError(torchError("TORCH_VALUE"));
    const shared = new Float32Array(new SharedArrayBuffer(8));
    shared.set([1, 2]);
    expect(torch.fromTypedArray(shared).tolist()).toEqual([1, 2]);
    const bytes = new Uint8Array(9).fill(1);
    expect(torch.fromTypedArray(bytes.subarray(1, 4)).tolist()).toEqual([1, 1, 1]);
    expect(() => untyped.fromTypedArray(new DataView(bytes.buffer, 1, 4))).toThrowError(torchError("TORCH_TYPE"));
  });
});
