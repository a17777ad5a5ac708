import { describe, expect, it } from "vitest";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import { type Call, compare, DTYPES, type Dtype, diffcoder, normal, run, TOLERANCE } from "./support.js";

interface Problem {
  hidden: Tensor;
  weight: Tensor;
  targets: Tensor;
  rowWeights: Tensor;
}

function problem(n: number, vocabulary: number, width: number, dtype: Dtype): Problem {
  return {
    hidden: normal([n, width], dtype, 1),
    weight: normal([vocabulary, width], dtype, 2).mul(1 / Math.sqrt(width)),
    targets: torch.randint(0, vocabulary, [n], { generator: new torch.Generator({ seed: 3 }) }),
    rowWeights: normal([n], "float32", 4).abs(),
  };
}

const loss = (name: string, targets: Tensor, rowWeights: Tensor | null, chunk: number): Call => {
  return (hidden, weight) => diffcoder[name](hidden, weight, targets, rowWeights, chunk) as Tensor[];
};

describe.each(DTYPES)("%s", (dtype) => {
  it.each([
    [0, 11, 8],
    [1, 7, 5],
    [50, 101, 16],
    [64, 256, 32],
  ])("%i rows, %i tokens, width %i: loss, nll and gradients for any chunk size", (n, vocabulary, width) => {
    const { hidden, weight, targets, rowWeights } = problem(n, vocabulary, width, dtype);
    for (const chunk of [1, 7, 50, 1000]) {
      for (const weights of [null, rowWeights]) {
        const [actual, expected] = ["linear_cross_entropy", "linear_cross_entropy_reference"].map((name) =>
          loss(name, targets, weights, chunk),
        );
        expect(compare(actual, expected, [hidden, weight]), `chunks of ${chunk}`).toBeLessThan(TOLERANCE[dtype]);
      }
    }
  });
});

describe("linear_cross_entropy", () => {
  const { hidden, weight, targets, rowWeights } = problem(40, 300, 24, "float32");
  const leaves = () => [hidden.detach().requiresGrad_(), weight.detach().requiresGrad_()];

  it("is cross_entropy of the linear layer's outputs", () => {
    const [, nll] = diffcoder.linear_cross_entropy(hidden, weight, targets, null, 16) as Tensor[];
    const expected = torch.crossEntropyLoss(torch.linear(hidden, weight), targets, null, 0);
    expect(nll.sub(expected).abs().amax().item()).toBeLessThan(1e-5);
  });

  it("survives logits that overflow exp", () => {
    const [total, nll] = diffcoder.linear_cross_entropy(hidden.mul(200), weight.mul(50), targets, null, 16) as Tensor[];
    expect(Number.isFinite(total.item())).toBe(true);
    expect(nll.amin().item()).toBeGreaterThanOrEqual(0);
  });

  it("scales the gradients by what comes in", () => {
    const call = loss("linear_cross_entropy", targets, rowWeights, 16);
    const gradients = (factor: number) => {
      const inputs = leaves();
      return torch.grad([(call(...inputs) as Tensor[])[0].mul(factor)], inputs) as Tensor[];
    };
    const [once, thrice] = [gradients(1), gradients(3)];
    once.forEach((g, i) => {
      expect(thrice[i].sub(g.mul(3)).abs().amax().item()).toBeLessThan(1e-4);
    });
  });

  it("differentiates only what asks for it", () => {
    const frozen = leaves()[0];
    const [total] = diffcoder.linear_cross_entropy(frozen, weight, targets, null, 16) as Tensor[];
    const [dHidden] = torch.grad([total], [frozen]) as Tensor[];
    const both = run(loss("linear_cross_entropy", targets, null, 16), [hidden, weight]);
    expect(dHidden.shape).toEqual((both.gradients[0] as Tensor).shape);
    expect((diffcoder.linear_cross_entropy(hidden, weight, targets, null, 16) as Tensor[])[0].requiresGrad).toBe(false);
    const [quiet] = torch.noGrad(() => diffcoder.linear_cross_entropy(...leaves(), targets, null, 16) as Tensor[]);
    expect(quiet.requiresGrad).toBe(false);
  });

  it("nll carries no gradient", () => {
    const [total, nll] = diffcoder.linear_cross_entropy(...leaves(), targets, null, 16) as Tensor[];
    expect([total.requiresGrad, nll.requiresGrad]).toEqual([true, false]);
  });

  it("can be differentiated again with retainGraph, and says so without", () => {
    const inputs = leaves();
    const [total] = diffcoder.linear_cross_entropy(...inputs, targets, null, 16) as Tensor[];
    const first = torch.grad([total], inputs, { retainGraph: true }) as Tensor[];
    const second = torch.grad([total], inputs) as Tensor[];
    first.forEach((g, i) => {
      expect(g.sub(second[i]).abs().amax().item()).toBe(0);
    });
    expect(() => torch.grad([total], inputs)).toThrow(/freed by an earlier backward pass/);
  });

  it("under autocast multiplies in bfloat16 and keeps float32 for losses and the weight's gradient", () => {
    const inputs = leaves();
    const [total, nll] = torch.autocast(
      { device: "cpu", dtype: "bfloat16" },
      () => diffcoder.linear_cross_entropy(...inputs, targets, null, 16) as Tensor[],
    );
    const gradients = torch.grad([total], inputs) as Tensor[];
    expect([total, nll, ...gradients].map((t) => t.dtype)).toEqual(["float32", "float32", "float32", "float32"]);
    const exact = run(loss("linear_cross_entropy", targets, null, 16), [hidden, weight]);
    expect(Math.abs(total.item() / exact.outputs[0].item() - 1)).toBeLessThan(1e-2);
  });

  it("adds up many chunks of a bfloat16 weight's gradient in float32", () => {
    const many = problem(256, 32, 8, "bfloat16");
    const inputs = [many.hidden, many.weight];
    const [small, whole] = [4, 256].map(
      (chunk) => run(loss("linear_cross_entropy", many.targets, null, chunk), inputs).gradients[1] as Tensor,
    );
    const exact = run(
      loss("linear_cross_entropy_reference", many.targets, null, 1),
      inputs.map((t) => t.double()),
    );
    const expected = exact.gradients[1] as Tensor;
    const error = (t: Tensor) => t.double().sub(expected).abs().amax().item() / expected.abs().amax().item();
    expect(error(small)).toBeLessThan(1e-2);
    expect(error(whole)).toBeLessThan(1e-2);
  });

  it("names a target outside the vocabulary, and other mistakes", () => {
    const call =
      (...args: unknown[]) =>
      () =>
        diffcoder.linear_cross_entropy(...args);
    const bad = targets.clone();
    bad.narrow(0, 17, 1).fill_(300);
    expect(call(hidden, weight, bad, null, 16)).toThrow(/target 300 is outside the vocabulary of 300/);
    expect(call(hidden, weight, bad.neg(), null, 16)).toThrow(/outside the vocabulary/);
    expect(call(hidden, weight, targets, null, 0)).toThrow(/chunk_size must be at least 1/);
    expect(call(hidden, weight.narrow(1, 0, 8), targets, null, 16)).toThrow(/\[n, d\] and weight \[v, d\]/);
    expect(call(hidden, weight, targets.int(), null, 16)).toThrow(/targets must be int64/);
    expect(call(hidden, weight, targets, rowWeights.narrow(0, 0, 3), 16)).toThrow(/row_weights must be \[40\]/);
    expect(call(hidden, weight, targets, rowWeights.detach().requiresGrad_(), 16)).toThrow(
      /no gradient is made for row_weights/,
    );
    expect(call(hidden, weight.double(), targets, null, 16)).toThrow(/one floating dtype/);
  });
});
