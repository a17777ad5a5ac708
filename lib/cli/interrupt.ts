import colors from "picocolors";

/** An AbortSignal that the first Ctrl-C (or SIGTERM) aborts; the second ends the process at once. */
export interface Interrupt extends Disposable {
  signal: AbortSignal;
}

/** Listens until disposed. @param message what the first Ctrl-C says */
export function interruptSignal(message?: string): Interrupt {
  const controller = new AbortController();
  const stop = (name: NodeJS.Signals) => {
    if (controller.signal.aborted) process.exit(name === "SIGINT" ? 130 : 143);
    if (message !== undefined) process.stderr.write(`\n${colors.yellow(message)}\n`);
    controller.abort(new Error(`stopped by ${name}`));
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  return {
    signal: controller.signal,
    [Symbol.dispose]: () => {
      process.off("SIGINT", stop);
      process.off("SIGTERM", stop);
    },
  };
}
