import { withGradMode } from "./autograd.js";
import { asTorchError, TorchError } from "./errors.js";
import { type Handle, native } from "./native.js";
import { scope } from "./scope.js";
import { liveHandle, Tensor, wrap } from "./tensor.js";

/** Carries tensors and values from a function's forward to its backward. */
export class FunctionContext {
  /** The tensors that {@link saveForBackward} kept, in its order: for the backward. */
  saved: readonly Tensor[] = [];
  /** Anything else the backward needs. */
  [key: string]: unknown;

  /**
   * Keeps tensors for the backward, whatever scope they were made in. The graph frees them, and the backward throws when
   * one was written in place since, as in PyTorch.
   */
  saveForBackward(...tensors: Tensor[]): void {
    this.saved = tensors;
  }
}

/** A differentiable function written in TypeScript: torch.autograd.Function. */
export interface DifferentiableFunction<Inputs extends readonly unknown[], Output extends Tensor | Tensor[]> {
  /** Computes the outputs. Runs without recording. */
  forward(context: FunctionContext, ...inputs: Inputs): Output;
  /**
   * Gradients of the inputs from those of the outputs (null where none arrives); one per input, null where there is none.
   * Runs in a scope of its own: what it makes and does not return is freed.
   */
  backward(context: FunctionContext, ...gradients: (Tensor | null)[]): Tensor | null | (Tensor | null)[];
}

/**
 * Makes an operator from a forward and a backward. Inputs that are not tensors are passed through and have no gradient.
 * An exception of either comes out of the call, or out of backward(), as it is.
 */
export function defineFunction<Inputs extends readonly unknown[], Output extends Tensor | Tensor[]>(
  definition: DifferentiableFunction<Inputs, Output>,
): (...inputs: Inputs) => Output {
  return (...inputs: Inputs): Output => {
    const context = new FunctionContext();
    const forward = withGradMode("forward", false, () => definition.forward(context, ...inputs));
    const positions = inputs.flatMap((input, i) => (input instanceof Tensor ? [i] : []));
    const tensors = positions.map((i) => inputs[i] as Tensor);
    if (!native.isGradEnabled() || !tensors.some((tensor) => tensor.requiresGrad)) return forward;

    const outputs = Array.isArray(forward) ? forward : [forward as Tensor];
    const { saved } = context;
    context.saved = [];
    const callback = (...handles: (Handle | null)[]) =>
      scope(() => {
        const received = handles.map((handle) => (handle === null ? null : wrap(handle)));
        context.saved = received.slice(outputs.length) as Tensor[];
        try {
          const returned = definition.backward(context, ...received.slice(0, outputs.length));
          return perTensor(Array.isArray(returned) ? returned : [returned], inputs.length, positions).map(
            shareGradient,
          );
        } finally {
          context.saved = [];
        }
      });
    try {
      const handles = native.customFunction(
        tensors.map(liveHandle),
        outputs.map(liveHandle),
        saved.map(liveHandle),
        callback,
      );
      const results = handles.map((handle) => wrap(handle));
      return (Array.isArray(forward) ? results : results[0]) as Output;
    } catch (error) {
      throw asTorchError(error, "defineFunction");
    }
  };
}

/** Gradients come one per input, or one per input that is a tensor. */
function perTensor(gradients: (Tensor | null)[], inputs: number, positions: readonly number[]): (Tensor | null)[] {
  if (gradients.length === inputs) return positions.map((i) => gradients[i]);
  if (gradients.length === positions.length) return gradients;
  throw new TorchError("TORCH_ARGUMENT", `backward returned ${gradients.length} gradients for ${inputs} inputs`);
}

/** A handle for the engine, which outlives the scope and which the addon takes. */
function shareGradient(gradient: Tensor | null | undefined): Handle {
  if (gradient === null || gradient === undefined) return 0;
  if (!(gradient instanceof Tensor)) throw new TorchError("TORCH_TYPE", "backward must return tensors or null");
  return native.share(gradient.handle);
}
