/** A mistake in how a command was called. Its message is shown alone, without a stack. */
export class CliError extends Error {
  override readonly name = "CliError";
  readonly code = "CLI_USAGE";
}

/** What a person should see of an error: its message, and the stack only for what is a bug of ours. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const known = typeof (error as { code?: unknown }).code === "string";
  if (known && !process.env.DIFFCODER_DEBUG) return error.message;
  return error.stack ?? error.message;
}
