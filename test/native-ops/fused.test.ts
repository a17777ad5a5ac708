import { describe, expect, it } from "vitest";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import { type Call, compare, DTYPES, type Dtype, diffcoder, normal, run, same, TOLERANCE } from "./support.js";

const call = (name: string, ...more: unknown[]): Call => {
  return (...inputs) => diffcoder[name](...inputs, ...more) as Tensor | Tensor[];
};
const twins = (name: string, ...more: unknown[]): [Call, Call] => [
  call(name, ...more),
  call(`${name}_reference`, ...more),
];

/** The same values, with the last dimension not contiguous. */
const scattered = (t: Tensor) => (t.ndim < 2 ? t : t.transpose(0, -1).contiguous().transpose(0, -1));

const SHAPES = [[5, 48], [2, 3, 37], [130, 64], [1, 4096], [0, 16], [33, 2, 8], [7]];

describe.each(DTYPES)("%s", (dtype) => {
  const norm = (shape: number[]) => [normal(shape, dtype, 1), normal([shape[shape.length - 1]], dtype, 2)];

  it("rms_norm", () => {
    for (const shape of SHAPES) {
      expect(compare(...twins("rms_norm", 1e-6), norm(shape)), `[${shape}]`).toBeLessThan(TOLERANCE[dtype]);
      expect(compare(...twins("rms_norm", 1e-2), norm(shape), scattered), `[${shape}]`).toBeLessThan(TOLERANCE[dtype]);
    }
  });

  it("add_rms_norm, and either of its outputs alone", () => {
    for (const shape of SHAPES) {
      const [x, weight] = norm(shape);
      const inputs = [x, normal(shape, dtype, 3), weight];
      const pair = twins("add_rms_norm", 1e-6);
      expect(compare(...pair, inputs), `[${shape}]`).toBeLessThan(TOLERANCE[dtype]);
      for (const one of [0, 1]) {
        const [actual, expected] = pair.map(
          (f): Call =>
            (...args) =>
              (f(...args) as Tensor[])[one],
        );
        expect(compare(actual, expected, inputs), `[${shape}] ${one}`).toBeLessThan(TOLERANCE[dtype]);
      }
    }
  });

  it("swiglu", () => {
    for (const shape of SHAPES) {
      const inputs = [normal(shape, dtype, 1).mul(4), normal(shape, dtype, 2)];
      expect(compare(...twins("swiglu"), inputs), `[${shape}]`).toBeLessThan(TOLERANCE[dtype]);
      expect(compare(...twins("swiglu"), inputs, scattered), `[${shape}]`).toBeLessThan(TOLERANCE[dtype]);
    }
  });

  it("swiglu of the halves of one projection", () => {
    const halves = (op: Call): Call => {
      return (t) => op(t.narrow(-1, 0, 24), t.narrow(-1, 24, 24));
    };
    const [actual, expected] = twins("swiglu").map(halves);
    expect(compare(actual, expected, [normal([3, 5, 48], dtype, 1)])).toBeLessThan(TOLERANCE[dtype]);
  });

  it("rotary, with angles per position and per row and position", () => {
    for (const [b, s, h, d] of [
      [2, 5, 3, 16],
      [1, 33, 4, 6],
      [2, 7, 2, 64],
      [0, 4, 2, 8],
    ]) {
      for (const rows of [[], [b], [1]]) {
        const angles = normal([...rows, s, d / 2], "float32", 5);
        const inputs = [normal([b, s, h, d], dtype, 6)];
        const [actual, expected] = ["rotary", "rotary_reference"].map(
          (name): Call =>
            (x) =>
              diffcoder[name](x, angles.cos(), angles.sin()) as Tensor,
        );
        expect(compare(actual, expected, inputs)).toBeLessThan(TOLERANCE[dtype]);
        expect(compare(actual, expected, inputs, scattered)).toBeLessThan(TOLERANCE[dtype]);
      }
    }
  });
});

describe("values at the edges", () => {
  const gates = [-Infinity, -1e4, -90, -88.5, -87, -20, -1, -1e-3, 0, 1e-3, 1, 20, 87, 88.5, 90, 1e4];

  it("swiglu saturates without NaN, keeps NaN, and is float32's own accuracy in between", () => {
    const dense = Array.from({ length: 4001 }, (_, i) => -100 + i * 0.05);
    const gate = torch.tensor([...gates.slice(1), ...dense]);
    const actual = (diffcoder.swiglu(gate, torch.onesLike(gate)) as Tensor).double();
    const expected = torch.silu(gate.double());
    const error = actual.sub(expected).abs().div(expected.abs().clamp(1e-30)).amax().item();
    expect(error).toBeLessThan(6e-7);
    const odd = torch.tensor([Number.NaN, Number.POSITIVE_INFINITY]);
    expect((diffcoder.swiglu(odd, torch.onesLike(odd)) as Tensor).tolist()).toEqual([
      Number.NaN,
      Number.POSITIVE_INFINITY,
    ]);
  });

  it("bfloat16 results are rounded to nearest even, NaN stays NaN", () => {
    const up = torch.tensor([1.00390625, 1.01171875, -1.00390625, Number.NaN, 3.3895313892515355e38, 1e-40]);
    const one = torch.full([6], 40, { dtype: "float32" }); // silu(40) = 40 in float32
    const exact = (diffcoder.swiglu(one, up) as Tensor).bfloat16();
    const [x, y] = [one.bfloat16(), up.bfloat16()];
    expect((diffcoder.swiglu(x, y) as Tensor).tolist()).toEqual(
      (diffcoder.swiglu(x.float(), y.float()) as Tensor).bfloat16().tolist(),
    );
    expect(exact.dtype).toBe("bfloat16");
  });

  it("rms_norm of zeros is zero, with a finite gradient", () => {
    const { outputs, gradients } = run(call("rms_norm", 1e-6), [torch.zeros([2, 8]), torch.ones([8])]);
    expect(outputs[0].abs().amax().item()).toBe(0);
    expect(gradients.every((g) => Number.isFinite((g as Tensor).abs().amax().item()))).toBe(true);
  });
});

describe("mixed dtypes and autocast", () => {
  const autocast = <T>(fn: () => T): T => torch.autocast({ device: "cpu", dtype: "bfloat16" }, fn);

  it("a float32 weight leaves a bfloat16 input's dtype", () => {
    const [x, weight] = [normal([4, 32], "bfloat16", 1), normal([32], "float32", 2)];
    expect(compare(...twins("rms_norm", 1e-6), [x, weight])).toBeLessThan(TOLERANCE.bfloat16);
  });

  it("a bfloat16 branch joins a float32 residual stream in float32", () => {
    const inputs = [normal([4, 32], "bfloat16", 1), normal([4, 32], "float32", 2), normal([32], "float32", 3)];
    const worst = compare(...twins("add_rms_norm", 1e-6), inputs);
    expect(worst).toBeLessThan(1e-2); // the branch's gradient is bfloat16
    const [normed, sum] = diffcoder.add_rms_norm(...inputs, 1e-6) as Tensor[];
    expect([normed.dtype, sum.dtype]).toEqual(["float32", "float32"]);
  });

  it("norms write autocast's dtype and keep the residual stream's", () => {
    const [x, residual, weight] = [
      normal([4, 32], "float32", 1),
      normal([4, 32], "float32", 2),
      normal([32], "float32", 3),
    ];
    const leaves = [x, residual, weight].map((t) => t.requiresGrad_());
    const [normed, sum] = autocast(() => diffcoder.add_rms_norm(...leaves, 1e-6) as Tensor[]);
    expect([normed.dtype, sum.dtype]).toEqual(["bfloat16", "float32"]);
    const [exact] = diffcoder.add_rms_norm(...leaves, 1e-6) as Tensor[];
    expect(same(normed.detach(), exact.detach().bfloat16())).toBe(true); // rounded once, at the end
    const gradients = torch.grad([normed.float().sum(), sum.sum()], leaves) as Tensor[];
    expect(gradients.map((g) => g.dtype)).toEqual(["float32", "float32", "float32"]);
    expect((autocast(() => diffcoder.rms_norm(x, weight, 1e-6)) as Tensor).dtype).toBe("bfloat16");
    expect((autocast(() => diffcoder.rms_norm(x.double(), weight, 1e-6)) as Tensor).dtype).toBe("float64");
    expect((autocast(() => diffcoder.swiglu(x, residual)) as Tensor).dtype).toBe("bfloat16");
  });

  it("swiglu promotes as PyTorch does", () => {
    const inputs = [normal([4, 32], "bfloat16", 1), normal([4, 32], "float32", 2)];
    expect((diffcoder.swiglu(...inputs) as Tensor).dtype).toBe("float32");
    expect(compare(...twins("swiglu"), inputs)).toBeLessThan(1e-2);
  });
});

describe("gradients", () => {
  it("skip what is frozen", () => {
    const x = normal([4, 32], "float32", 1).requiresGrad_();
    const weight = normal([32], "float32", 2);
    const [dx] = torch.grad([(diffcoder.rms_norm(x, weight, 1e-6) as Tensor).sum()], [x]) as Tensor[];
    const y = x.detach().requiresGrad_();
    const [dy] = torch.grad([(diffcoder.rms_norm_reference(y, weight, 1e-6) as Tensor).sum()], [y]) as Tensor[];
    expect(dx.sub(dy).abs().amax().item()).toBeLessThan(1e-5);
  });

  it("of the norm's weight do not depend on the number of threads", () => {
    const inputs = [normal([700, 40], "float32", 1), normal([40], "float32", 2)];
    const threads = torch.getNumThreads();
    try {
      const [one, three] = [1, 3].map((n) => {
        torch.setNumThreads(n);
        return run(call("rms_norm", 1e-6), inputs).gradients[1] as Tensor;
      });
      expect(same(one, three)).toBe(true);
    } finally {
      torch.setNumThreads(threads);
    }
  });

  it.each(["rms_norm", "add_rms_norm", "swiglu", "rotary"])("refuse a second derivative: %s", (name) => {
    const x = normal([1, 4, 1, 8], "float32", 1).requiresGrad_();
    const [flat, angle] = [normal([8], "float32", 2), normal([4, 4], "float32", 3)];
    const more =
      { rms_norm: [flat, 1e-6], add_rms_norm: [x, flat, 1e-6], swiglu: [x], rotary: [angle, angle] }[name] ?? [];
    const [out] = [diffcoder[name](x, ...more) as Tensor | Tensor[]].flat();
    expect(() => torch.grad([out.sum()], [x], { createGraph: true })).toThrow(/no second derivative/);
  });
});

describe("arguments", () => {
  it("of the wrong shape or dtype are named", () => {
    const x = normal([2, 4, 2, 8], "float32", 1);
    const angle = normal([4, 4], "float32", 2);
    expect(() => diffcoder.rms_norm(x, normal([7], "float32", 2), 1e-6)).toThrow(/weight \[7\] does not fit/);
    expect(() => diffcoder.rms_norm(torch.ones([2, 3], { dtype: "int64" }), normal([3], "float32", 2), 1e-6)).toThrow(
      /floating/,
    );
    expect(() => diffcoder.add_rms_norm(x, x.narrow(0, 0, 1), normal([8], "float32", 2), 1e-6)).toThrow(
      /differ in shape/,
    );
    expect(() => diffcoder.swiglu(x, x.narrow(3, 0, 4))).toThrow(/differ in shape/);
    expect(() => diffcoder.rotary(x, angle.narrow(0, 0, 3), angle.narrow(0, 0, 3))).toThrow(
      /\[positions, head_dim \/ 2\]/,
    );
    expect(() => diffcoder.rotary(x, angle.detach().requiresGrad_(), angle)).toThrow(
      /no gradient is made for cos and sin/,
    );
    expect(() => diffcoder.rotary(x.narrow(3, 0, 7), angle, angle)).toThrow(/even head_dim/);
  });
});

describe("shapes of the dtype table", () => {
  it("every operator keeps its input's dtype", () => {
    for (const dtype of DTYPES as Dtype[]) {
      const x = normal([2, 4, 2, 8], dtype, 1);
      const angle = normal([4, 4], "float32", 2);
      const weight = normal([8], dtype, 3);
      const outputs = [
        diffcoder.rms_norm(x, weight, 1e-6),
        ...(diffcoder.add_rms_norm(x, x, weight, 1e-6) as Tensor[]),
        diffcoder.swiglu(x, x),
        diffcoder.rotary(x, angle, angle),
      ] as Tensor[];
      expect(outputs.map((t) => t.dtype)).toEqual(outputs.map(() => dtype));
    }
  });
});
