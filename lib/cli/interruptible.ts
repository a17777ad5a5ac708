import { interruptSignal } from "../train/index.js";

/**
 * Runs a command's work so that Ctrl-C and SIGTERM abort its signal. Work that ends by throwing the signal's reason was
 * stopped and did not fail: the exit code is 130, and there is no error to show.
 *
 * @param message what the first Ctrl-C prints
 */
export async function interruptible(message: string, work: (signal: AbortSignal) => Promise<void>): Promise<void> {
  using interrupt = interruptSignal({ message });
  const { signal } = interrupt;
  try {
    await work(signal);
  } catch (error) {
    if (!signal.aborted || error !== signal.reason) throw error;
    process.exitCode = 130;
  }
}
