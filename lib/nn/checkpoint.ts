import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";

/**
 * Activation checkpointing (torch.utils.checkpoint): runs a function without keeping its activations and runs it again
 * in the backward pass. This trades the memory of the activations for a second forward pass.
 *
 * Arguments and results may be tensors, or arrays and plain objects of tensors. The function must be deterministic; it
 * is run again under the same autocast. Gradients of parameters that it uses are added to their `.grad`. If no argument
 * requires a gradient, the function is called directly.
 */
export function checkpoint<Args extends unknown[], Result>(fn: (...args: Args) => Result): (...args: Args) => Result {
  return (...args) => {
    const given = torch.tensorTree(args, (tensor) => tensor.requiresGrad);
    if (!torch.isGradEnabled() || given.tensors.length === 0) return fn(...args);
    const autocast = torch.currentAutocast(given.tensors[0].device);
    let result: torch.TensorTree<Result> | undefined;

    const run = torch.defineFunction<Tensor[], Tensor[]>({
      forward(context, ...inputs) {
        context.saveForBackward(...inputs);
        result = torch.tensorTree(fn(...given.rebuild(inputs)));
        return result.tensors;
      },
      backward(context, ...gradients) {
        const inputs = context.saved.map((tensor) => tensor.detach().requiresGrad_());
        const outputs = torch.enableGrad(() =>
          torch.autocast(autocast, () => torch.tensorTree(fn(...given.rebuild(inputs))).tensors),
        );
        const wanted = outputs.flatMap((output, i) =>
          gradients[i] && output.requiresGrad ? [[output, gradients[i]] as const] : [],
        );
        torch.backward(
          wanted.map(([output]) => output),
          wanted.map(([, gradient]) => gradient),
        );
        return inputs.map((input) => input.grad);
      },
    });
    const outputs = run(...given.tensors);
    return (result as torch.TensorTree<Result>).rebuild(outputs);
  };
}
