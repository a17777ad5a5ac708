import { asTorchError, guard, TorchError } from "./errors.js";
import { type Handle, native } from "./native.js";
import { release } from "./scope.js";
import { Tensor } from "./tensor.js";
import { type DTypeLike, dtypes, toDType } from "./dtype.js";

// Modes belong to the thread, not to a task: a function that awaits inside one would switch it for everybody else.
function refusePromise(what: string, result: unknown): void {
  if (!(result instanceof Promise)) return;
  result.catch(() => {});
  throw new TorchError("TORCH_SCOPE", `${what}(fn): fn must be synchronous: the mode is the thread's and would leak across an await`);
}

function withGradMode<T>(what: string, enabled: boolean, fn: () => T): T {
  const before = native.isGradEnabled();
  native.setGradEnabled(enabled);
  try {
    const result = fn();
    refusePromise(what, result);
    return result;
  } finally {
    native.setGradEnabled(before);
  }
}

/** Runs a synchronous function without recording operations: torch.no_grad. */
export function noGrad<T>(fn: () => T): T {
  return withGradMode("noGrad", false, fn);
}

/** Runs a synchronous function recording operations, also inside {@link noGrad}: torch.enable_grad. */
export function enableGrad<T>(fn: () => T): T {
  return withGradMode("enableGrad", true, fn);
}

export function isGradEnabled(): boolean {
  return native.isGradEnabled();
}

/** Runs a synchronous function in torch.inference_mode: cheaper than noGrad; its tensors can never join a graph. */
export function inferenceMode<T>(fn: () => T): T {
  native.enterInferenceMode();
  try {
    const result = fn();
    refusePromise("inferenceMode", result);
    return result;
  } finally {
    native.leaveInferenceMode();
  }
}

export interface AutocastOptions {
  /** "cpu" or "cuda". */
  device: string;
  /** Default "bfloat16". */
  dtype?: DTypeLike;
  /** Default true. */
  enabled?: boolean;
}

/**
 * Runs a synchronous function with matrix products and attention in a lower precision: torch.autocast. Casts of leaf
 * parameters are cached until the outermost autocast ends.
 */
export function autocast<T>(options: AutocastOptions, fn: () => T): T {
  const device = options.device.split(":")[0];
  const code = dtypes[toDType(options.dtype ?? "bfloat16")].code;
  const before = guard("autocast", () => native.enterAutocast(device, options.enabled ?? true, code));
  try {
    const result = fn();
    refusePromise("autocast", result);
    return result;
  } finally {
    native.leaveAutocast(device, before.enabled, before.dtype);
  }
}

export interface GradOptions {
  /** Gradients of the outputs; needed where an output has more than one element. */
  gradOutputs?: readonly (Tensor | null)[];
  retainGraph?: boolean;
  createGraph?: boolean;
  /** Give null for inputs that the outputs do not depend on, instead of throwing. */
  allowUnused?: boolean;
}

/** The gradients of outputs with respect to inputs, without touching any `.grad`: torch.autograd.grad. */
export function grad(outputs: readonly Tensor[], inputs: readonly Tensor[], options: GradOptions = {}): (Tensor | null)[] {
  const handles = guard("grad", () =>
    native.grad(
      outputs.map((output) => output.handle),
      inputs.map((input) => input.handle),
      (options.gradOutputs ?? []).map((gradient) => gradient?.handle ?? 0),
      options.retainGraph,
      options.createGraph ?? false,
      options.allowUnused ?? false,
    ),
  );
  return handles.map((handle) => (handle === null ? null : new Tensor(handle)));
}

/** torch.autograd.backward: backward of several tensors in one pass. */
export function backward(
  tensors: readonly Tensor[],
  gradients: readonly (Tensor | null)[] = [],
  options: { retainGraph?: boolean; createGraph?: boolean } = {},
): void {
  guard("backward", () =>
    native.backward(
      tensors.map((tensor) => tensor.handle),
      gradients.map((gradient) => gradient?.handle ?? 0),
      options.retainGraph,
      options.createGraph ?? false,
    ),
  );
}

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
  /** Gradients of the inputs from those of the outputs (null where none arrives); one per input, null where there is none. */
  backward(context: FunctionContext, ...gradients: (Tensor | null)[]): Tensor | null | (Tensor | null)[];
}

/**
 * Makes an operator from a forward and a backward. Inputs that are no tensors are passed through and have no gradient.
 */
export function defineFunction<Inputs extends readonly unknown[], Output extends Tensor | Tensor[]>(
  definition: DifferentiableFunction<Inputs, Output>,
): (...inputs: Inputs) => Output {
  return (...inputs: Inputs): Output => {
    const context = new FunctionContext();
    const forward = withGradMode("forward", false, () => definition.forward(context, ...inputs));
    const outputs = Array.isArray(forward) ? forward : [forward as Tensor];
    const positions = inputs.flatMap((input, i) => (input instanceof Tensor ? [i] : []));
    const recorded = positions.some((i) => (inputs[i] as Tensor).requiresGrad) && native.isGradEnabled();
    if (!recorded) {
      return forward;
    }
    const saved = context.saved.map((tensor) => tensor.handle);
    context.saved = [];
    const callback = (...handles: (Handle | null)[]): Handle[] => {
      const tensors = handles.map((handle) => (handle === null ? null : new Tensor(handle)));
      context.saved = tensors.slice(outputs.length) as Tensor[];
      const returned = definition.backward(context, ...tensors.slice(0, outputs.length));
      context.saved = [];
      const list = Array.isArray(returned) ? returned : [returned];
      if (list.length !== inputs.length && list.length !== positions.length) {
        throw new TorchError("TORCH_ARGUMENT", `backward returned ${list.length} gradients for ${inputs.length} inputs`);
      }
      const byTensor = list.length === inputs.length ? positions.map((i) => list[i]) : list;
      return byTensor.map((gradient) => gradient?.handle ?? 0);
    };
    try {
      const handles = native.customFunction(
        positions.map((i) => (inputs[i] as Tensor).handle),
        outputs.map((output) => output.handle),
        saved,
        callback,
      );
      for (const output of outputs) if (!inputs.includes(output)) release(output);
      const results = handles.map((handle) => new Tensor(handle));
      return (Array.isArray(forward) ? results : results[0]) as Output;
    } catch (error) {
      throw asTorchError(error, "defineFunction");
    }
  };
}
