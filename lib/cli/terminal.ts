import { isAbsolute, relative } from "node:path";
import type { PrepareProgress } from "../data/index.js";
import { interruptSignal } from "../train/interrupt.js";

/** A path for display: relative to the working directory if it is below it. */
export function shownPath(path: string): string {
  const near = relative(".", path);
  if (near === "") return ".";
  return near.startsWith("..") || isAbsolute(near) ? path : near;
}

/** A command line that can be pasted into a shell. */
export function shownCommand(...words: string[]): string {
  return words.map((word) => (/^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(" ");
}

/** Formats a corpus summary, with one line for each reason to skip. */
export function shownSummary(summary: string): string {
  return summary.replace(/\), (?=\d)/g, "),\n         ");
}

/**
 * Shows the progress of data preparation: in place on a terminal, and nothing elsewhere, because it takes only seconds.
 */
export function progressLine(stream: NodeJS.WriteStream = process.stderr): (progress: PrepareProgress) => void {
  if (!stream.isTTY) return () => {};
  // With the carriage return at the end, the next output replaces the line.
  return ({ documents, bytes }) =>
    stream.write(`\r\x1b[Kreading: ${documents} documents, ${(bytes / 1e6).toFixed(1)} MB\r`);
}

/**
 * Runs a command's work so that Ctrl-C and SIGTERM abort its signal. If the work throws the
 * signal's reason, it was stopped and did not fail: the exit code is 130, and no error is shown.
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
