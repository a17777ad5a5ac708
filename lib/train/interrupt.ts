import { constants } from "node:os";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Launchers pass on what the terminal sends to all anyway: a signal within this time is the same one once more. */
const ECHO_MILLISECONDS = 1000;

/** A signal that aborts when the process is asked to stop. Dispose of it to stop listening. */
export interface Interrupt extends Disposable {
  readonly signal: AbortSignal;
}

/**
 * For command lines: the first Ctrl-C, SIGTERM or SIGHUP aborts the signal, so that training ends after the step at hand and
 * saves; the second ends the process at once. Nothing listens before this is called and after it is disposed of.
 *
 * @param options.message what the first one prints to standard error
 */
export function interruptSignal(options: { message?: string } = {}): Interrupt {
  const { message = "Stopping after this step and saving. Once more ends at once." } = options;
  const controller = new AbortController();
  let first = 0;
  const stop = (name: NodeJS.Signals) => {
    if (controller.signal.aborted) {
      if (performance.now() - first > ECHO_MILLISECONDS) process.exit(128 + constants.signals[name]);
      return;
    }
    first = performance.now();
    process.stderr.write(`\n${message}\n`);
    controller.abort(new Error(`stopped by ${name}`));
  };
  for (const name of SIGNALS) process.on(name, stop);
  return {
    signal: controller.signal,
    [Symbol.dispose]() {
      for (const name of SIGNALS) process.off(name, stop);
    },
  };
}
