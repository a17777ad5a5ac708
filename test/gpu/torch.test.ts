// Tensors on the device: Python's results for every operator family, autograd with functions written in TypeScript, random
// numbers, reads that do not block. Memory and copies: memory.test.ts.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import { native } from "../../lib/torch/native.js";
import { fixture, Golden, titled } from "../torch/golden-cases.js";
import { thrownBy, torchError } from "../torch/support.js";
import { Draw, device, onGpu, relativeError, synchronize, tolerance } from "./support.js";

const leaf = (values: torch.TensorData, options: torch.TensorOptions = {}) =>
  torch.tensor(values, { device, requiresGrad: true, ...options });
const gradOf = (tensor: Tensor) => tensor.grad as Tensor;

// A rehearsal has no device whose thread calls back, but another thread.
beforeAll(() => native.serveBackward(!onGpu));
afterAll(() => native.serveBackward(false));

describe("operators agree with Python's torch", () => {
  const golden = new Golden(device, onGpu ? 4 : 1);
  const loose = new Golden(device, onGpu ? 100 : 1); // cuDNN computes convolutions in TF32
  for (const { title, one } of titled())
    it(title, () => torch.scope(() => (one.name.includes("conv") ? loose : golden).run(one)));
  for (const one of fixture.indexing) it(JSON.stringify(one.index), () => torch.scope(() => golden.runIndex(one)));
});

describe("large tensors, against float64 on the CPU", () => {
  const draw = new Draw(31);
  const a = draw.normal([257, 1030]);
  const b = draw.normal([257, 1030]);
  const c = draw.normal([1030, 129]);
  const operators: [string, (x: Tensor, y: Tensor, z: Tensor) => Tensor][] = [
    ["add", (x, y) => x.add(y)],
    ["mul, broadcast", (x, y) => x.mul(y.index(0))],
    ["exp", (x) => x.exp()],
    ["softmax", (x) => x.softmax(-1)],
    ["logSoftmax", (x) => x.logSoftmax(0)],
    ["sum", (x) => x.sum([0])],
    ["mean", (x) => x.mean()],
    ["var", (x) => x.var([1])],
    ["amax", (x) => x.amax([1])],
    ["cumsum", (x) => x.cumsum(1)],
    ["matmul", (x, _, z) => x.matmul(z)],
    ["transpose and matmul", (x, y) => x.t().matmul(y)],
    ["layerNorm", (x) => torch.layerNorm(x, [1030])],
    ["gelu", (x) => torch.gelu(x)],
    ["cat", (x, y) => torch.cat([x, y], 1)],
    ["index", (x) => x.index(torch.slice(3, 200, 3), torch.slice(null, -1))],
    ["where", (x, y) => torch.where(x.gt(0), x, y)],
    ["sort", (x) => x.sort(1)[0]],
    ["topk", (x) => x.topk(7)[0]],
    ["std of a part", (x) => x.narrow(1, 5, 900).std()],
  ];
  it.each(operators)("%s", (_, operator) => {
    torch.scope(() => {
      const expected = operator(a.double(), b.double(), c.double());
      // Products in TF32 would be ten bits short.
      torch.setFloat32MatmulPrecision("highest");
      expect(relativeError(operator(a.to(device), b.to(device), c.to(device)), expected, 0.01)).toBeLessThan(2e-5);
      const half = operator(
        a.to({ device, dtype: "bfloat16" }),
        b.to({ device, dtype: "bfloat16" }),
        c.to({ device, dtype: "bfloat16" }),
      );
      expect(relativeError(half, expected, 0.01)).toBeLessThan(2 * tolerance.bfloat16);
    });
  });
});

describe("autograd", () => {
  const square = torch.defineFunction({
    forward(context, x: Tensor) {
      context.saveForBackward(x);
      return x.mul(x);
    },
    backward: (context, gradient) => (gradient as Tensor).mul(context.saved[0]).mul(2),
  });

  /** A function that finds its gradient by a backward pass of its own, as activation checkpointing does. */
  const recomputed = (f: (x: Tensor) => Tensor) =>
    torch.defineFunction({
      forward(context, x: Tensor) {
        context.saveForBackward(x);
        return f(x);
      },
      backward(context, gradient) {
        const x = context.saved[0].detach().requiresGrad_();
        return torch.enableGrad(() => torch.grad([f(x)], [x], { gradOutputs: [gradient] }))[0];
      },
    });

  it("a backward written in TypeScript is called from the device's thread", () => {
    torch.scope(() => {
      const x = leaf([1, 2, 3]);
      square(x)
        .mul(torch.tensor([1, 10, 100], { device }))
        .sum()
        .backward();
      expect(gradOf(x).device).toBe(x.device);
      expect(gradOf(x).tolist()).toEqual([2, 40, 600]);
    });
  });

  it("in a graph that spans the CPU and the device, whichever comes last", () => {
    torch.scope(() => {
      const here = leaf([1, 2], { device: "cpu" });
      square(square(here).to(device)).sum().to("cpu").mul(2).backward(); // the loss is on the CPU
      expect(gradOf(here).tolist()).toEqual([8, 64]);
      const there = leaf([1, 2]);
      square(square(there).cpu()).sum().to(device).backward();
      expect(gradOf(there).tolist()).toEqual([4, 32]);
      const [gradient] = torch.grad([square(there).cpu().sum()], [there]);
      expect(gradient?.tolist()).toEqual([2, 4]);
    });
  });

  it("a backward pass within a backward, nested twice", () => {
    torch.scope(() => {
      const x = leaf([1, 2]);
      const inner = recomputed((t) => square(t));
      recomputed((t) => inner(inner(t)))(x)
        .sum()
        .backward();
      expect(gradOf(x).tolist()).toEqual([4, 32]);
    });
  });

  it("exceptions come through unchanged, and the next pass is whole", () => {
    torch.scope(() => {
      const problem = new Error("mine");
      const bad = torch.defineFunction({
        forward: (_, x: Tensor) => x.clone(),
        backward(): null {
          throw problem;
        },
      });
      const x = leaf([3]);
      for (let i = 0; i < 10; i++) {
        expect(thrownBy(() => bad(x).sum().backward())).toBe(problem);
        expect(
          thrownBy(() =>
            recomputed((t) => bad(t))(x)
              .sum()
              .backward(),
          ),
        ).toBe(problem);
      }
      square(x).sum().backward();
      expect(gradOf(x).item()).toBe(6);
    });
  });

  it("the callback runs in the node's modes", () => {
    torch.scope(() => {
      const seen: unknown[] = [];
      const spy = torch.defineFunction({
        forward: (_, x: Tensor) => x.clone(),
        backward(_, gradient) {
          const product = (gradient as Tensor).matmul(gradient as Tensor);
          seen.push(torch.isGradEnabled(), product.requiresGrad, product.dtype);
          return gradient;
        },
      });
      const x = leaf([[1]]);
      spy(x).sum().backward();
      torch.grad([spy(x).mul(x).sum()], [x], { createGraph: true });
      torch.autocast({ device }, () => spy(x).sum().backward());
      expect(seen).toEqual([false, false, "float32", true, true, "float32", false, false, "bfloat16"]);
    });
  });

  it("many passes leave nothing behind", () => {
    const x = torch.keep(leaf([1, 2, 3]));
    const before = torch.memory().tensors;
    for (let i = 0; i < 200; i++) torch.scope(() => square(x.mul(2)).sum().backward());
    x.grad = null;
    expect(torch.memory().tensors).toBe(before);
    x.dispose();
  });

  it("differentiates twice", () => {
    torch.scope(() => {
      const x = leaf([1, 2]);
      const [first] = torch.grad([square(x).mul(x).sum()], [x], { createGraph: true });
      const [second] = torch.grad([(first as Tensor).sum()], [x]);
      expect(second?.tolist()).toEqual([6, 12]);
    });
  });

  it("autocast computes products in bfloat16 and gives float32 gradients", () => {
    torch.scope(() => {
      const weight = leaf([
        [1, 2],
        [3, 4],
      ]);
      const y = torch.autocast({ device, dtype: "bfloat16" }, () => torch.ones([1, 2], { device }).matmul(weight));
      expect(y.dtype).toBe("bfloat16");
      y.sum().backward();
      expect(gradOf(weight).dtype).toBe("float32");
      expect(gradOf(weight).tolist()).toEqual([
        [1, 1],
        [1, 1],
      ]);
    });
  });
});

describe("random numbers", () => {
  it("of one seed are the same, from a generator and from the default one", () => {
    torch.scope(() => {
      const draw = (seed: number) => {
        using generator = new torch.Generator({ seed, device });
        return torch.randn([1000], { device, generator });
      };
      expect(draw(5).equal(draw(5))).toBe(true);
      expect(draw(5).equal(draw(6))).toBe(false);
      torch.manualSeed(9);
      const first = torch.rand([1000], { device });
      torch.manualSeed(9);
      expect(torch.rand([1000], { device }).equal(first)).toBe(true);
    });
  });

  it("a generator goes back to a state", () => {
    torch.scope(() => {
      using generator = new torch.Generator({ seed: 1, device });
      torch.rand([10], { device, generator });
      const state = generator.getState();
      const first = torch.rand([10], { device, generator });
      generator.setState(state);
      expect(torch.rand([10], { device, generator }).equal(first)).toBe(true);
    });
  });

  it("follow their distributions", () => {
    torch.scope(() => {
      using generator = new torch.Generator({ seed: 2, device });
      const n = 1_000_000;
      const normal = torch.randn([n], { device, generator });
      expect(Math.abs(normal.mean().item())).toBeLessThan(5 / Math.sqrt(n));
      expect(Math.abs(normal.var().item() - 1)).toBeLessThan(5 * Math.sqrt(2 / n));
      const coins = torch.bernoulli(torch.full([n], 0.3, { device }), { generator });
      expect(Math.abs(coins.mean().item() - 0.3)).toBeLessThan(5 * Math.sqrt(0.21 / n));
      const dice = torch.randint(0, 6, [n], { device, generator });
      expect(dice.amin().item()).toBe(0);
      expect(dice.amax().item()).toBe(5);
      const order = torch.randperm(1000, { device, generator });
      expect(order.sort()[0].equal(torch.arange(1000, { device }))).toBe(true);
    });
  });

  it.runIf(onGpu)("need a generator of their own device", () => {
    torch.scope(() => {
      using generator = new torch.Generator({ seed: 1 });
      expect(() => torch.rand([2], { device, generator })).toThrowError(
        torchError("TORCH_ERROR", /Expected a 'cuda' device type for generator/),
      );
    });
  });
});

describe("reads", () => {
  it("come whole, many at a time, whatever is freed meanwhile", async () => {
    const expected = Array.from({ length: 20 }, (_, i) => Float32Array.from({ length: 1000 + i }, (_, j) => i * j));
    const reads = torch.scope(() => expected.map((numbers) => torch.tensor(numbers, { device }).toTypedArrayAsync()));
    torch.scope(() => torch.zeros([100_000], { device }));
    expect(await Promise.all(reads)).toEqual(expected);
  });

  it("of bfloat16, and of views", async () => {
    await torch.scope(async () => {
      const x = torch.arange(12, { device, dtype: "float32" }).view([3, 4]);
      expect(await x.t().toTypedArrayAsync()).toEqual(x.t().toTypedArray());
      expect(await x.bfloat16().toTypedArrayAsync()).toEqual(x.toTypedArray());
      expect(await x.index(1, 2).itemAsync()).toBe(6);
    });
  });
});

describe("devices", () => {
  it("are named as PyTorch names them", () => {
    torch.scope(() => {
      const x = torch.ones([2], { device });
      expect(x.device).toBe(onGpu ? "cuda:0" : "cpu");
      expect(x.isCuda).toBe(onGpu);
      expect(x.to(device)).toBe(x);
      expect(x.cpu().device).toBe("cpu");
      expect(torch.onesLike(x).device).toBe(x.device);
    });
  });

  it.runIf(onGpu)("mixed in one call are an error that names both", () => {
    torch.scope(() => {
      const here = torch.ones([2]);
      const there = torch.ones([2], { device });
      expect(() => here.add(there)).toThrowError(
        torchError(
          "TORCH_ERROR",
          /same device[\s\S]*Tensor\(\[2\], float32, cpu\), Tensor\(\[2\], float32, cuda:0\)/,
          "add",
        ),
      );
      expect(() => torch.ones([1], { device: "cuda:99" })).toThrow();
      expect(() => torch.cuda.memoryStats(99)).toThrowError(torchError("TORCH_VALUE", /no CUDA device 99/));
    });
  });

  it.runIf(onGpu)("have properties", () => {
    const { name, major, totalMemory, multiProcessorCount } = torch.cuda.deviceProperties();
    expect(name).toMatch(/\w/);
    for (const number of [major, totalMemory, multiProcessorCount]) expect(number).toBeGreaterThan(0);
    expect(torch.cuda.deviceCount()).toBeGreaterThan(0);
    expect(torch.cuda.currentDevice()).toBe(0);
    synchronize();
  });
});
