import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";

export const { diffcoder } = torch.ops;

export type Dtype = "float64" | "float32" | "bfloat16" | "float16";
export const DTYPES: Dtype[] = ["float64", "float32", "bfloat16", "float16"];

/** What arithmetic in a dtype may lose: absolute for float64, else as a share of the largest value (at least 1). */
export const TOLERANCE: Record<Dtype, number> = { float64: 1e-12, float32: 1e-5, bfloat16: 2e-2, float16: 4e-3 };

export function normal(shape: number[], dtype: Dtype, seed: number): Tensor {
  return torch.randn(shape, { generator: new torch.Generator({ seed }), dtype: "float64" }).to(dtype);
}

export type Call = (...inputs: Tensor[]) => Tensor | Tensor[];

export interface Outcome {
  outputs: Tensor[];
  gradients: (Tensor | null)[];
}

/** Runs a call on fresh leaves and takes the gradients of its differentiable outputs for random seeds. */
export function run(call: Call, inputs: Tensor[], view: (input: Tensor) => Tensor = (input) => input): Outcome {
  const leaves = inputs.map((input) => {
    const leaf = view(input.detach());
    return /float/.test(leaf.dtype) ? leaf.requiresGrad_() : leaf;
  });
  const outputs = [call(...leaves)].flat();
  const recorded = outputs.filter((output) => output.requiresGrad);
  const gradients = torch.grad(
    recorded,
    leaves.filter((leaf) => leaf.requiresGrad),
    {
      gradOutputs: recorded.map((output, i) => normal(output.shape, output.dtype as Dtype, 100 + i)),
      allowUnused: true,
    },
  );
  return { outputs: outputs.map((output) => output.detach()), gradients };
}

/** The largest difference in the terms of {@link TOLERANCE}; infinite if shapes or dtypes differ. */
export function difference(actual: Tensor, expected: Tensor): number {
  if (actual.shape.join() !== expected.shape.join() || actual.dtype !== expected.dtype) return Number.POSITIVE_INFINITY;
  if (actual.numel() === 0) return 0;
  return torch.scope(() => {
    const worst = actual.double().sub(expected.double()).abs().amax().item();
    const scale = actual.dtype === "float64" ? 1 : Math.max(1, expected.double().abs().amax().item());
    return Number.isNaN(worst) ? Number.POSITIVE_INFINITY : worst / scale;
  });
}

/** The worst difference between an operator and its reference, over outputs and gradients. */
export function compare(actual: Call, expected: Call, inputs: Tensor[], view?: (input: Tensor) => Tensor): number {
  return torch.scope(() => {
    const [a, b] = [run(actual, inputs, view), run(expected, inputs, view)];
    const pairs = [
      ...a.outputs.map((output, i) => [output, b.outputs[i]]),
      ...a.gradients.map((g, i) => [g, b.gradients[i]]),
    ];
    return Math.max(
      ...pairs.map(([x, y]) => {
        if (x === null || y === null) return x === y ? 0 : Number.POSITIVE_INFINITY;
        return difference(x, y);
      }),
    );
  });
}

/** Whether two tensors hold the same bits. */
export const same = (a: Tensor, b: Tensor): boolean => a.equal(b) as unknown as boolean;
