/** A signal that aborts when the process is asked to stop. Dispose of it to stop listening. */
export interface Interrupt extends Disposable {
  readonly signal: AbortSignal;
}

/**
 * For command lines: the first Ctrl-C or SIGTERM aborts the signal, so that training ends after the step at hand and
 * saves; the second ends the process at once. Nothing listens before this is called and after it is disposed of.
 *
 * @param options.message what the first one prints to standard error
 */
export function interruptSignal(options: { message?: string } = {}): Interrupt {
  const { message = "Stopping after this step and saving. Once more ends at once." } = options;
  const controller = new AbortController();
  const stop = (name: NodeJS.Signals) => {
    if (controller.signal.aborted) process.exit(name === "SIGINT" ? 130 : 143);
    process.stderr.write(`\n${message}\n`);
    controller.abort(new Error(`stopped by ${name}`));
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  return {
    signal: controller.signal,
    [Symbol.dispose]() {
      process.off("SIGINT", stop);
      process.off("SIGTERM", stop);
    },
  };
}
