import { describe, expect, it } from "vitest";
import { clipGradNorm, gradNorm, NnError, parameter, scaleGradients } from "../../lib/nn/index.js";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import { difference, golden } from "./golden.js";

function load() {
  const { tensors } = golden("optim/clip.safetensors");
  const names = Object.keys(tensors)
    .filter((name) => name.startsWith("grad."))
    .map((name) => name.slice("grad.".length));
  const parameters = names.map((name) => {
    const tensor = parameter(torch.zerosLike(tensors[`grad.${name}`]));
    tensor.grad = tensors[`grad.${name}`].clone();
    return tensor;
  });
  return { tensors, names, parameters };
}

describe("clipGradNorm", () => {
  it("follows torch.nn.utils.clip_grad_norm_", () => {
    const { tensors, names, parameters } = load();
    const norm = clipGradNorm(parameters, 0.5);
    expect(difference(norm, tensors.norm)).toBeLessThan(1e-6);
    for (const [i, name] of names.entries()) {
      expect(difference(parameters[i].grad as Tensor, tensors[`clipped.${name}`])).toBeLessThan(1e-6);
    }
  });

  it("leaves small gradients as they are, bit for bit", () => {
    const { tensors, names, parameters } = load();
    clipGradNorm(parameters, 1000);
    for (const [i, name] of names.entries()) {
      expect(difference(parameters[i].grad as Tensor, tensors[`grad.${name}`])).toBe(0);
    }
  });

  it("takes a norm from elsewhere", () => {
    const weight = parameter(torch.zeros([1]));
    weight.grad = torch.tensor([3]);
    clipGradNorm([weight], 1, { norm: torch.tensor(6) });
    expect(weight.grad.item()).toBeCloseTo(0.5, 5);
  });

  it("refuses a limit that is none", () => {
    expect(() => clipGradNorm([], 0)).toThrow(NnError);
    expect(() => clipGradNorm([], Number.NaN)).toThrow(NnError);
  });
});

describe("gradNorm and scaleGradients", () => {
  it("computes bfloat16 gradients' norm in float32", () => {
    const weight = parameter(torch.zeros([3000], { dtype: "bf16" }));
    weight.grad = torch.ones([3000], { dtype: "bf16" });
    const norm = gradNorm([weight]);
    expect(norm.dtype).toBe("float32");
    expect(norm.item()).toBeCloseTo(Math.sqrt(3000), 3);
  });

  it("mixes dtypes and is zero without gradients", () => {
    const [a, b] = [parameter(torch.zeros([2])), parameter(torch.zeros([2], { dtype: "bf16" }))];
    expect(gradNorm([a, b]).item()).toBe(0);
    a.grad = torch.tensor([3, 0]);
    b.grad = torch.tensor([0, 4], { dtype: "bf16" });
    expect(gradNorm([a, b]).item()).toBe(5);
    scaleGradients([a, b], 2);
    scaleGradients([a, b], torch.tensor(0.25));
    expect([a.grad?.tolist(), b.grad?.tolist()]).toEqual([
      [1.5, 0],
      [0, 2],
    ]);
  });
});
