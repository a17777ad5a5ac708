/** Codes of {@link TorchError}. */
export const torchErrorCodes = [
  "TORCH_ARGUMENT", // an argument has the wrong type, or no overload accepts the arguments
  "TORCH_DISPOSED", // a tensor was used after it was freed
  "TORCH_VALUE",
  "TORCH_TYPE",
  "TORCH_INDEX",
  "TORCH_NOT_IMPLEMENTED", // libtorch has no kernel for this device or dtype
  "TORCH_UNKNOWN_OPERATOR",
  "TORCH_OUT_OF_MEMORY",
  "TORCH_CUDA_UNAVAILABLE",
  "TORCH_IO",
  "TORCH_SCOPE", // a scope was held across an await
  "TORCH_FORMAT", // a file does not have the expected format
  "TORCH_LOAD", // the addon or libtorch cannot be loaded
  "TORCH_ERROR", // any other error of libtorch
  "TORCH_INTERNAL",
] as const;

export type TorchErrorCode = (typeof torchErrorCodes)[number];

/** An error of libtorch or of the binding, with a stable `code` and, where one was called, the operator. */
export class TorchError extends Error {
  override readonly name = "TorchError";
  readonly code: TorchErrorCode;
  readonly operator?: string;

  constructor(code: TorchErrorCode, message: string, options: { operator?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    if (options.operator !== undefined) this.operator = options.operator;
  }
}

/** The message of any thrown value. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Converts an error of the addon to a TorchError. A user's exception, thrown by a callback, is returned unchanged. */
export function asTorchError(error: unknown, operator?: string, describe?: () => string): unknown {
  if (!(error instanceof Error) || error instanceof TorchError) return error;
  const code = (error as { code?: unknown }).code;
  if (typeof code !== "string" || !(torchErrorCodes as readonly string[]).includes(code)) return error;
  const inputs = describe ? `\n  called with ${describe()}` : "";
  const prefix = operator ? `${operator}: ` : "";
  return new TorchError(code as TorchErrorCode, `${prefix}${error.message}${inputs}`, { operator });
}

/** Runs a native call and converts its errors to {@link TorchError}. */
export function guard<T>(operator: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    throw asTorchError(error, operator);
  }
}
