import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { checkOptions } from "../torch/options.js";
import { NnError } from "./errors.js";

function gradientsOf(parameters: Iterable<Tensor>): Tensor[] {
  const gradients: Tensor[] = [];
  for (const parameter of parameters) {
    const gradient = parameter.grad;
    if (gradient) gradients.push(gradient);
  }
  return gradients;
}

/** Groups tensors by device, because a foreach call works on one device. */
function byDevice(tensors: Tensor[]): Tensor[][] {
  const lists = new Map<string, Tensor[]>();
  for (const tensor of tensors) {
    const list = lists.get(tensor.device);
    if (list) list.push(tensor);
    else lists.set(tensor.device, [tensor]);
  }
  return [...lists.values()];
}

/**
 * The total L2 norm of all gradients, a float32 scalar on the device of the first gradient. Without any gradient it is
 * zero, on the device of the first parameter. Does not synchronize with the device.
 */
export function gradNorm(parameters: Iterable<Tensor>): Tensor {
  return torch.noGrad(() =>
    torch.scope(() => {
      const list = [...parameters];
      const gradients = gradientsOf(list);
      const [first] = gradients;
      if (!first) return torch.zeros([], { device: list[0]?.device });
      const norms = byDevice(gradients).map((list) => {
        const parts = torch.ops.aten._foreach_norm(list, 2, "float32") as Tensor[];
        return torch.linalg.vectorNorm(torch.stack(parts));
      });
      if (norms.length === 1) return norms[0];
      return torch.linalg.vectorNorm(torch.stack(norms.map((norm) => norm.to(first.device))));
    }),
  );
}

/**
 * Scales all gradients so that their total L2 norm is at most `maxNorm` (torch.nn.utils.clip_grad_norm_: factor min(1,
 * maxNorm / (norm + 1e-6))). The factor stays on the device, without synchronization.
 *
 * @param options.norm a norm that is already known, e.g. reduced over ranks; default: {@link gradNorm} of this process
 * @returns the norm before clipping, a float32 scalar
 */
export function clipGradNorm(parameters: Iterable<Tensor>, maxNorm: number, options: { norm?: Tensor } = {}): Tensor {
  if (!(maxNorm > 0)) throw new NnError("NN_ARGUMENT", `clipGradNorm: maxNorm must be positive, got ${maxNorm}`);
  const list = [...parameters];
  options = checkOptions("clipGradNorm", options, ["norm"]);
  const norm = options.norm ?? gradNorm(list);
  torch.scope(() =>
    torch.noGrad(() => {
      scaleGradients(list, norm.add(1e-6).reciprocal_().mul_(maxNorm).clampMax_(1));
    }),
  );
  return norm;
}

/**
 * Multiplies all gradients by a factor: a number, or a scalar tensor, which stays on its device. Use it to divide
 * summed gradients by a count that is known only after the backward passes.
 */
export function scaleGradients(parameters: Iterable<Tensor>, factor: number | Tensor): void {
  torch.scope(() =>
    torch.noGrad(() => {
      for (const list of byDevice(gradientsOf(parameters))) {
        const device = list[0].device;
        const local = typeof factor === "number" || factor.device === device ? factor : factor.to(device);
        torch.ops.aten._foreach_mul_(list, local);
      }
    }),
  );
}
