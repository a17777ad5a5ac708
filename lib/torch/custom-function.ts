import { withGradMode } from "./autograd.js";
import { asTorchError, TorchError } from "./errors.js";
import { type Handle, native } from "./native.js";
import { scope } from "./scope.js";
import { liveHandle, Tensor, wrap } from "./tensor.js";

/** Passes tensors and values from the forward to the backward of a function. */
export class FunctionContext {
  /** The tensors saved by {@link saveForBackward}, in the same order. */
  saved: readonly Tensor[] = [];
  /** Other values for the backward. */
  [key: string]: unknown;

  /**
   * Keeps tensors for the backward, independently of their scope. The graph frees them. As in PyTorch, the backward
   * throws if one was modified in place in the meantime.
   */
  saveForBackward(...tensors: Tensor[]): void {
    this.saved = tensors;
  }
}

/** A differentiable function written in TypeScript: torch.autograd.Function. */
export interface DifferentiableFunction<Inputs extends readonly unknown[], Output extends Tensor | Tensor[]> {
  /** Computes the outputs. Runs without gradient recording. */
  forward(context: FunctionContext, ...inputs: Inputs): Output;
  /**
   * Computes the gradients of the inputs from those of the outputs (null if there is none): one per input, or null.
   * Runs in its own scope: tensors that it creates and does not return are freed.
   */
  backward(context: FunctionContext, ...gradients: (Tensor | null)[]): Tensor | null | (Tensor | null)[];
}

/**
 * Makes an operator from a forward and a backward. Inputs that are not tensors are passed through and have no gradient.
 * Exceptions of either are thrown unchanged by the call or by backward().
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

/** Maps gradients, of which there is one per input or one per tensor input, to tensor inputs. */
function perTensor(gradients: (Tensor | null)[], inputs: number, positions: readonly number[]): (Tensor | null)[] {
  if (gradients.length === inputs) return positions.map((i) => gradients[i]);
  if (gradients.length === positions.length) return gradients;
  throw new TorchError("TORCH_ARGUMENT", `backward returned ${gradients.length} gradients for ${inputs} inputs`);
}

/** A handle for the autograd engine that outlives the scope. The addon takes ownership. */
function shareGradient(gradient: Tensor | null | undefined): Handle {
  if (gradient === null || gradient === undefined) return 0;
  if (!(gradient instanceof Tensor)) throw new TorchError("TORCH_TYPE", "backward must return tensors or null");
  return native.share(gradient.handle);
}
