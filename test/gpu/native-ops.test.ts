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
type Call = (...inputs: Tensor[]) => Tensor | Tensor[];
const call = (name: string, ...more: unknown[]): Call => {
  return (...inputs) => diffcoder[name](...inputs, ...more) as Tensor | Tensor[];
};

const DTYPES: Compared[] = ["float64", "float32", "float16", "bfloat16"];

function check(
  name: string,
  dtype: Compared,
  { forward, backward }: { forward: number; backward: number },
  limit = tolerance[dtype],
): void {
  expect(forward, `${name}, forward`).toBeLessThan(limit);
  expect(backward, `${name}, backward`).toBeLessThan(limit);
}

/** A tensor with the same values that does not lie in memory row by row. */
const scattered = (input: Tensor) => (input.ndim < 2 ? input : input.transpose(0, -1).contiguous().transpose(0, -1));

describe("rms_norm", () => {
  const shapes = [
    [1, 3],
    [5, 100],
    [3, 7, 64],
    [33, 257],
    [2, 4096],
    [4, 8192],
    [0, 64],
  ];

  it.each(DTYPES)("%s: forward and gradients as in float64 on the CPU", (dtype) => {
    for (const shape of shapes) {
      const draw = new Draw(1);
      const inputs = [draw.normal(shape, dtype), draw.normal([shape[shape.length - 1]], dtype)];
      const result = compare(inputs, call("rms_norm", 1e-6), call("rms_norm_reference", 1e-6));
      check(`[${shape}]`, dtype, result);
    }
  });

  it("takes inputs that are not contiguous", () => {
    const draw = new Draw(2);
    const inputs = [draw.normal([6, 5, 40]), draw.normal([40])];
    const result = compare(inputs, call("rms_norm", 1e-6), call("rms_norm_reference", 1e-6), { view: scattered });
    check("scattered", "float32", result);
  });
});

describe("add_rms_norm", () => {
  it.each(DTYPES)("%s: forward and gradients of both outputs", (dtype) => {
    for (const shape of [
      [5, 100],
      [3, 7, 64],
      [2, 4096],
      [0, 64],
    ]) {
      const draw = new Draw(3);
      const width = shape[shape.length - 1];
      const inputs = [draw.normal(shape, dtype), draw.normal(shape, dtype), draw.normal([width], dtype)];
      check(`[${shape}]`, dtype, compare(inputs, call("add_rms_norm", 1e-6), call("add_rms_norm_reference", 1e-6)));
    }
  });

  it("under autocast: the normed result in bfloat16, the sum in the residual stream's float32", () => {
    const draw = new Draw(4);
    const inputs = [draw.normal([9, 128], "bfloat16"), draw.normal([9, 128]), draw.normal([128])];
    const run: Call = (...leaves) => {
      const [normed, sum] = torch.autocast({ device }, () => call("add_rms_norm", 1e-6)(...leaves)) as Tensor[];
      expect([normed.dtype, sum.dtype]).toEqual(["bfloat16", "float32"]);
      return [normed, sum];
    };
    check("autocast", "bfloat16", compare(inputs, run, call("add_rms_norm_reference", 1e-6)));
  });
});

describe("rotary", () => {
  const shapes = [
    [2, 7, 3, 8],
    [1, 33, 4, 64],
    [2, 5, 2, 128],
    [3, 1, 1, 2],
    [2, 4, 2, 6],
  ];

  it.each(DTYPES)("%s: one table for all rows, and one per row", (dtype) => {
    for (const [b, s, h, d] of shapes) {
      for (const table of [
        [s, d / 2],
        [b, s, d / 2],
      ]) {
        const draw = new Draw(5);
        const angles = draw.normal(table, "float64").mul(3);
        const [cos, sin] = [angles.cos().float(), angles.sin().float()];
        const ours: Call = (x) => diffcoder.rotary(x, cos.to(device), sin.to(device)) as Tensor;
        const theirs: Call = (x) => diffcoder.rotary_reference(x, cos.double(), sin.double()) as Tensor;
        // float64 inputs meet float32 tables: the operator's own arithmetic is what is left.
        const limit = Math.max(tolerance[dtype], dtype === "float64" ? 1e-7 : 0);
        check(`[${[b, s, h, d]}]`, dtype, compare([draw.normal([b, s, h, d], dtype)], ours, theirs), limit);
      }
    }
  });

  it("takes a part of a larger tensor", () => {
    const draw = new Draw(6);
    const [cos, sin] = [draw.normal([9, 32]), draw.normal([9, 32])];
    const part = (x: Tensor) => x.narrow(1, 0, 9).narrow(2, 1, 4);
    const ours: Call = (x) => diffcoder.rotary(part(x), cos.to(device), sin.to(device)) as Tensor;
    const theirs: Call = (x) => diffcoder.rotary_reference(part(x), cos.double(), sin.double()) as Tensor;
    check("part", "float32", compare([draw.normal([2, 18, 6, 64])], ours, theirs));
  });
});

describe("swiglu", () => {
  it.each(DTYPES)("%s: forward and gradients", (dtype) => {
    for (const shape of [
      [1, 1],
      [3, 5, 33],
      [7, 4096],
      [2, 14336],
      [0, 16],
    ]) {
      const draw = new Draw(7);
      const inputs = [draw.normal(shape, dtype), draw.normal(shape, dtype)];
      check(`[${shape}]`, dtype, compare(inputs, call("swiglu"), call("swiglu_reference")));
    }
  });

  it("takes two halves of one tensor", () => {
    const halves = (x: Tensor) => [x.narrow(-1, 0, 24), x.narrow(-1, 24, 24)];
    const ours: Call = (x) => call("swiglu")(...halves(x));
    const theirs: Call = (x) => call("swiglu_reference")(...halves(x));
    check("halves", "float32", compare([new Draw(8).normal([5, 48])], ours, theirs));
  });
});

describe("linear_cross_entropy", () => {
  const cases = [
    { n: 1, v: 7, d: 8, chunk: 4 },
    { n: 37, v: 1000, d: 64, chunk: 16 },
    { n: 64, v: 4097, d: 32, chunk: 64 },
    { n: 5, v: 50, d: 16, chunk: 1024 },
    { n: 0, v: 50, d: 16, chunk: 16 },
  ];

  it.each(DTYPES)("%s: loss, cross-entropies and gradients, with and without weights of the rows", (dtype) => {
    for (const { n, v, d, chunk } of cases) {
      for (const weighted of [true, false]) {
        const draw = new Draw(9);
        const inputs = [
          draw.normal([n, d], dtype),
          draw
            .normal([v, d])
            .mul(d ** -0.5)
            .to(dtype),
        ];
        const targets = draw.integers(0, v, [n]);
        const rows = weighted ? draw.normal([n]).abs() : null;
        const rowType = dtype === "float64" ? "float64" : "float32";
        const ours: Call = (hidden, weight) => {
          const factors = rows?.to({ dtype: rowType, device }) ?? null;
          return diffcoder.linear_cross_entropy(hidden, weight, targets.to(device), factors, chunk) as Tensor[];
        };
        const theirs: Call = (hidden, weight) => {
          const factors = rows?.double() ?? null;
          return diffcoder.linear_cross_entropy_reference(hidden, weight, targets, factors, chunk) as Tensor[];
        };
        check(`n ${n}, v ${v}, weighted ${weighted}`, dtype, compare(inputs, ours, theirs));
      }
    }
  });

  it("never holds the logits: 8192 rows of a vocabulary of 155136", () => {
    const [n, v, d, chunk] = sized([8192, 155_136, 1024, 1024], [64, 512, 32, 16]);
    torch.scope(() => {
      const draw = new Draw(10);
      const hidden = draw.normal([n, d], "bfloat16").to(device).requiresGrad_();
      const weight = torch
        .randn([v, d], { device, dtype: "bfloat16" })
        .mul(d ** -0.5)
        .requiresGrad_();
      const targets = draw.integers(0, v, [n]).to(device);
      const step = () => {
        const [loss] = diffcoder.linear_cross_entropy(hidden, weight, targets, null, chunk) as Tensor[];
        return torch.grad([loss], [hidden, weight]);
      };
      torch.scope(step);
      const before = memory.allocated();
      memory.reset();
      torch.scope(step);
      const extra = memory.peak() - before;
      // The gradients (the weight's in float32 until the end), one chunk of logits, and one chunk's part of the gradient.
      const needed = n * d * 2 + v * d * (4 + 2 + 2) + 2 * chunk * v * 2;
      expect(extra).toBeLessThan(1.25 * needed + 64e6);
      record(
        `linear_cross_entropy forward and backward, ${n} x ${v} x ${d} bf16`,
        `${milliseconds(() => void step(), 3).toFixed(2)} ms`,
      );
      record(
        "its memory beyond the inputs, against the logits' alone",
        `${(extra / 1e9).toFixed(2)} GB, ${((n * v * 2) / 1e9).toFixed(2)} GB`,
      );
    });
  });
});

describe("how long they take, against the plain operators they stand for", () => {
  const rows = sized(16_384, 32);
  const width = 4096;
  const cases: Record<string, { inputs: number[][]; ours: Call; plain: Call }> = {
    "rms_norm [16384, 4096]": {
      inputs: [[rows, width], [width]],
      ours: call("rms_norm", 1e-6),
      plain: call("rms_norm_reference", 1e-6),
    },
    "add_rms_norm [16384, 4096]": {
      inputs: [[rows, width], [rows, width], [width]],
      ours: call("add_rms_norm", 1e-6),
      plain: call("add_rms_norm_reference", 1e-6),
    },
    "swiglu [16384, 14336]": {
      inputs: [
        [rows, 14_336],
        [rows, 14_336],
      ],
      ours: call("swiglu"),
      plain: call("swiglu_reference"),
    },
  };

  it.each(Object.keys(cases))("%s, bf16, forward and backward", (name) => {
    const { inputs, ours, plain } = cases[name];
    torch.scope(() => {
      const leaves = inputs.map((shape) => torch.randn(shape, { device, dtype: "bfloat16" }).requiresGrad_());
      const both = (operator: Call) => () => {
        const outputs = [operator(...leaves)].flat();
        torch.grad(outputs, leaves, { gradOutputs: outputs.map((output) => output.detach()) });
      };
      const [fast, slow] = [milliseconds(both(ours)), milliseconds(both(plain))];
      record(
        `${name} bf16 forward and backward`,
        `${fast.toFixed(3)} ms, plain operators ${slow.toFixed(3)} ms (${(slow / fast).toFixed(1)}x)`,
      );
      const [a, b] = [ours(...leaves), plain(...leaves)].map((outputs) => [outputs].flat()[0]);
      expect(relativeError(a, b)).toBeLessThan(tolerance.bfloat16);
    });
  });
});
