import { asTorchError, messageOf } from "../torch/errors.js";
import { DistributedError } from "./errors.js";

/**
 * Converts an error of c10d or Gloo to a DistributedError: a timeout or a lost peer. An error about an argument is
 * converted to a TorchError. Gloo's errors can only be distinguished by their texts.
 */
export function asDistributedError(error: unknown, what: string): unknown {
  if (error instanceof DistributedError) return error;
  const code = (error as { code?: unknown } | undefined)?.code ?? "TORCH_ERROR";
  if (code !== "TORCH_ERROR") return asTorchError(error, what); // thrown by the addon itself
  const message = messageOf(error);
  const first = message
    .split("\n")[0]
    .replace(/^\[[^\]]*\]\s*/, "") // removes the file and line of c10d or Gloo
    .replace(/\s*This is typically caused by.*/, "");
  if (/timed?[- ]?out|timeout/i.test(message)) {
    return new DistributedError("DISTRIBUTED_TIMEOUT", `${what}: ${first}`, { cause: error });
  }
  if (/connection|connect|socket|broken pipe|peer|network|remote|recv|EOF|store is gone/i.test(message)) {
    return new DistributedError("DISTRIBUTED_PEER", `${what}: ${first}`, { cause: error });
  }
  return asTorchError(error, what);
}

/** Runs a native call of c10d and converts its errors. */
export function guarded<T>(what: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    throw asDistributedError(error, what);
  }
}

/** Awaits a native call of c10d and converts its errors. */
export async function guardedAsync<T>(what: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    throw asDistributedError(error, what);
  }
}
