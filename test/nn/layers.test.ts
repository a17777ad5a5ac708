import { describe, expect, it } from "vitest";
import { Embedding, functional, init, Linear, RMSNorm } from "../../lib/nn/index.js";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";

function difference(a: Tensor, b: Tensor): number {
  return a.double().sub(b.double()).abs().amax().item();
}

const generator = () => new torch.Generator({ seed: 5 });

describe("layers", () => {
  it("Linear is x W^T + b", () => {
    const linear = new Linear(3, 2, { generator: generator() });
    const x = torch.randn([4, 3], { generator: generator() });
    const expected = x.matmul(linear.weight.t()).add(linear.bias as Tensor);
    expect(difference(linear.forward(x), expected)).toBeLessThan(1e-6);
    const bound = 1 / Math.sqrt(3);
    expect(linear.weight.abs().amax().item()).toBeLessThanOrEqual(bound);
    linear.dispose();
  });

  it("Embedding picks rows and adds up their gradients", () => {
    const table = new Embedding(5, 2, { generator: generator() });
    const ids = torch.tensor([1, 3, 1], { dtype: "int64" });
    const out = table.forward(ids);
    expect(out.tolist()).toEqual(table.weight.indexSelect(0, ids).tolist());
    out.sum().backward();
    expect(table.weight.grad?.tolist()).toEqual([
      [0, 0],
      [2, 2],
      [0, 0],
      [1, 1],
      [0, 0],
    ]);
    table.dispose();
  });

  it("RMSNorm agrees with PyTorch's, alone and with the residual added, forward and backward", () => {
    const norm = new RMSNorm(8, { eps: 1e-5 });
    init.normal_(norm.weight, { mean: 1, std: 0.2, generator: generator() });
    const x = torch.randn([3, 8], { generator: generator() }).requiresGrad_();
    const residual = torch.randn([3, 8], { generator: new torch.Generator({ seed: 6 }) }).requiresGrad_();
    expect(difference(norm.forward(x), torch.rmsNorm(x, [8], norm.weight, 1e-5))).toBeLessThan(1e-6);

    const [normed, sum] = norm.addForward(x, residual);
    const plainSum = x.add(residual);
    const plain = torch.rmsNorm(plainSum, [8], norm.weight, 1e-5);
    expect(difference(sum, plainSum)).toBe(0);
    expect(difference(normed, plain)).toBeLessThan(1e-6);
    const inputs = [x, residual, norm.weight];
    const ours = torch.grad([normed.sin().sum().add(sum.cos().sum())], inputs);
    const theirs = torch.grad([plain.sin().sum().add(plainSum.cos().sum())], inputs);
    for (const [i, gradient] of ours.entries()) {
      expect(difference(gradient as Tensor, theirs[i] as Tensor)).toBeLessThan(1e-5);
    }
    norm.dispose();
  });

  it("computes the norm in float32 for bfloat16 inputs", () => {
    const x = torch.randn([4, 16], { generator: generator() }).mul(300).bfloat16();
    const weight = torch.ones([16], { dtype: "bf16" });
    const expected = torch.rmsNorm(x.float(), [16], null, 1e-6).bfloat16();
    const found = functional.rmsNorm(x, weight, 1e-6);
    expect(found.dtype).toBe("bfloat16");
    expect(difference(found, expected)).toBe(0);
  });
});

describe("functional", () => {
  it("crossEntropy: mean, sum, none and ignored classes", () => {
    const logits = torch.randn([4, 6], { generator: generator() });
    const targets = torch.tensor([1, 5, -100, 0], { dtype: "int64" });
    const logProbabilities = functional.logSoftmax(logits).tolist() as number[][];
    const expected = [-logProbabilities[0][1], -logProbabilities[1][5], 0, -logProbabilities[3][0]];
    const sum = expected.reduce((a, b) => a + b);
    const none = functional.crossEntropy(logits, targets, { reduction: "none" }).tolist() as number[];
    for (const [i, value] of none.entries()) expect(value).toBeCloseTo(expected[i], 5);
    expect(functional.crossEntropy(logits, targets, { reduction: "sum" }).item()).toBeCloseTo(sum, 4);
    expect(functional.crossEntropy(logits, targets).item()).toBeCloseTo(sum / 3, 5);
  });

  it("linearCrossEntropy equals cross-entropy of the logits, with row weights and gradients, whatever the chunk", () => {
    const hidden = torch.randn([7, 5], { generator: generator() }).requiresGrad_();
    const weight = torch.randn([11, 5], { generator: new torch.Generator({ seed: 8 }) }).requiresGrad_();
    const targets = torch.tensor([0, 10, 3, 3, 7, 1, 2], { dtype: "int64" });
    const rowWeights = torch.tensor([1, 2, 0, 0.5, 3, 1, 1]);
    const nll = functional.crossEntropy(functional.linear(hidden, weight), targets, { reduction: "none" });
    const expected = nll.mul(rowWeights).sum();
    const expectedGrads = torch.grad([expected], [hidden, weight]);
    for (const chunkSize of [1, 3, 64]) {
      const found = functional.linearCrossEntropy(hidden, weight, targets, { rowWeights, chunkSize });
      expect(difference(found.loss, expected)).toBeLessThan(1e-5);
      expect(difference(found.nll, nll)).toBeLessThan(1e-5);
      for (const [i, gradient] of torch.grad([found.loss], [hidden, weight]).entries()) {
        expect(difference(gradient as Tensor, expectedGrads[i] as Tensor)).toBeLessThan(1e-5);
      }
    }
  });

  it("swiglu is silu(gate) * up", () => {
    const [gate, up] = [torch.randn([3, 10], { generator: generator() }), torch.randn([3, 10])];
    expect(difference(functional.swiglu(gate, up), functional.silu(gate).mul(up))).toBeLessThan(1e-6);
  });

  it("rotary turns the pairs (i, i + d/2)", () => {
    const x = torch.randn([2, 3, 2, 4], { generator: generator() });
    const angles = torch.randn([3, 2], { generator: generator() });
    const [cos, sin] = [angles.cos(), angles.sin()];
    const [c, s] = [cos.unsqueeze(1), sin.unsqueeze(1)];
    const [a, b] = [x.narrow(-1, 0, 2), x.narrow(-1, 2, 2)];
    const expected = torch.cat([a.mul(c).sub(b.mul(s)), b.mul(c).add(a.mul(s))], -1);
    expect(difference(functional.rotary(x, cos, sin), expected)).toBeLessThan(1e-6);
  });
});

describe("init", () => {
  it("draws the same numbers for every dtype", () => {
    const wide = init.normal_(torch.empty([50]), { std: 0.5, generator: generator() });
    const narrow = init.normal_(torch.empty([50], { dtype: "bf16" }), { std: 0.5, generator: generator() });
    expect(narrow.tolist()).toEqual(wide.bfloat16().tolist());
  });

  it("has the moments asked for", () => {
    const sample = init.normal_(torch.empty([100_000]), { mean: 2, std: 0.5, generator: generator() });
    expect(sample.mean().item()).toBeCloseTo(2, 1.5);
    expect(sample.std().item()).toBeCloseTo(0.5, 2);
    expect(init.smallInit(4096)).toBeCloseTo(0.009882118, 8);
  });
});
