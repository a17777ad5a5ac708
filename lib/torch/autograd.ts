import { type DTypeLike, dtypeOfCode, dtypes, toDType } from "./dtype.js";
import { guard, TorchError } from "./errors.js";
import { native } from "./native.js";
import { checkOptions } from "./options.js";
import { liveHandle, type Tensor, wrap } from "./tensor.js";

// Modes are per thread, not per task: a function that awaits inside one would change the mode of other tasks.
function refusePromise(what: string, result: unknown): void {
  if (!(result instanceof Promise)) return;
  result.catch(() => {});
  throw new TorchError(
    "TORCH_SCOPE",
    `${what}(fn): fn must be synchronous, because the mode is per thread and would leak across an await`,
  );
}

/** Internal: runs a synchronous function with gradient recording on or off. */
export function withGradMode<T>(what: string, enabled: boolean, fn: () => T): T {
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

/**
 * Runs a synchronous function in torch.inference_mode: cheaper than noGrad, but its tensors can never be part of a
 * graph.
 */
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
  options = checkOptions("autocast", options, ["device", "dtype", "enabled"]);
  const device = options.device.split(":")[0];
  const dtype = toDType(options.dtype ?? "bfloat16");
  if (dtype !== "bfloat16" && dtype !== "float16")
    throw new TorchError("TORCH_TYPE", `autocast: dtype must be bfloat16 or float16, got ${dtype}`);
  const before = guard("autocast", () => native.enterAutocast(device, options.enabled ?? true, dtypes[dtype].code));
  try {
    const result = fn();
    refusePromise("autocast", result);
    return result;
  } finally {
    native.leaveAutocast(device, before.enabled, before.dtype);
  }
}

/** The current autocast settings of a device, to apply the same ones later. */
export function currentAutocast(device: string): Required<AutocastOptions> {
  const kind = device.split(":")[0];
  const { code } = dtypes.bfloat16;
  const { enabled, dtype } = guard("currentAutocast", () => native.enterAutocast(kind, false, code));
  native.leaveAutocast(kind, enabled, dtype);
  return { device: kind, enabled, dtype: dtypeOfCode(dtype) };
}

export interface GradOptions {
  /** Gradients of the outputs; required if an output has more than one element. */
  gradOutputs?: readonly (Tensor | null)[];
  retainGraph?: boolean;
  createGraph?: boolean;
  /** Return null for inputs that the outputs do not depend on, instead of throwing. */
  allowUnused?: boolean;
}

/** The gradients of outputs with respect to inputs, without touching any `.grad`: torch.autograd.grad. */
export function grad(
  outputs: readonly Tensor[],
  inputs: readonly Tensor[],
  options: GradOptions = {},
): (Tensor | null)[] {
  options = checkOptions("grad", options, ["gradOutputs", "retainGraph", "createGraph", "allowUnused"]);
  const handles = guard("grad", () =>
    native.grad(
      outputs.map(liveHandle),
      inputs.map(liveHandle),
      (options.gradOutputs ?? []).map(liveHandle),
      options.retainGraph,
      options.createGraph ?? false,
      options.allowUnused ?? false,
    ),
  );
  return handles.map((handle) => (handle === null ? null : wrap(handle)));
}

/** torch.autograd.backward: backward of several tensors in one pass. */
export function backward(
  tensors: readonly Tensor[],
  gradients: readonly (Tensor | null)[] = [],
  options: { retainGraph?: boolean; createGraph?: boolean } = {},
): void {
  options = checkOptions("backward", options, ["retainGraph", "createGraph"]);
  guard("backward", () =>
    native.backward(
      tensors.map(liveHandle),
      gradients.map(liveHandle),
      options.retainGraph,
      options.createGraph ?? false,
    ),
  );
}
