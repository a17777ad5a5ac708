import { constants } from "node:os";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** A launcher forwards signals that the terminal has also sent to its children: a second one this soon is a duplicate. */
const ECHO_MILLISECONDS = 1000;

/** A signal that aborts when the process is asked to stop. Dispose of it to stop listening. */
export interface Interrupt extends Disposable {
  readonly signal: AbortSignal;
}

/**
 * Handles Ctrl-C, SIGTERM and SIGHUP in a program that trains: the first one aborts the signal, so that training stops after
 * the current step and saves a checkpoint; the second one exits immediately. The handlers are installed by this call and
 * removed by `[Symbol.dispose]()`.
 *
 * @param options.message printed to standard error on the first signal
 */
export function interruptSignal(options: { message?: string } = {}): Interrupt {
  const { message = "Stopping after this step and saving. Press Ctrl-C again to exit immediately." } = options;
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
