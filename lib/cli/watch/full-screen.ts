import type { ReadStream, WriteStream } from "node:tty";

const ENTER = "\x1b[?1049h\x1b[?25l"; // the alternate screen; no cursor
const LEAVE = "\x1b[?25h\x1b[?1049l";

/**
 * A terminal's whole screen. Every way of ending gives it back: dispose, the end of the process, an error that nobody
 * catches, and the signals that stop us.
 */
export class FullScreen implements Disposable {
  readonly #out: WriteStream;
  readonly #in: ReadStream | undefined;
  #isOn = false;
  #onKeys: ((data: Buffer) => void) | undefined;

  /** @param input where keys come from; without one there are none */
  constructor(out: WriteStream, input?: ReadStream) {
    this.#out = out;
    this.#in = input;
    process.on("exit", this.#off);
    process.on("uncaughtExceptionMonitor", this.#off);
    this.#on();
  }

  /** Replaces what is seen, in one write. */
  draw(lines: readonly string[]): void {
    if (!this.#isOn) return;
    // Terminals that know 2026 show all of it at once; others ignore it.
    this.#out.write(`\x1b[?2026h\x1b[H${lines.map((line) => `${line}\x1b[K`).join("\r\n")}\x1b[J\x1b[?2026l`);
  }

  onKeys(listener: (data: Buffer) => void): void {
    this.#onKeys = listener;
    this.#in?.on("data", listener);
  }

  /** Ctrl-Z: the shell comes back, and after `fg` so do we. */
  suspend(after: () => void): void {
    this.#off();
    process.once("SIGCONT", () => {
      this.#on();
      after();
    });
    process.kill(process.pid, "SIGSTOP");
  }

  [Symbol.dispose](): void {
    this.#off();
    process.off("exit", this.#off);
    process.off("uncaughtExceptionMonitor", this.#off);
    if (this.#onKeys) this.#in?.off("data", this.#onKeys);
  }

  #on(): void {
    this.#in?.setRawMode(true);
    this.#in?.resume();
    this.#out.write(ENTER);
    this.#isOn = true;
  }

  readonly #off = (): void => {
    if (!this.#isOn) return;
    this.#isOn = false;
    this.#out.write(LEAVE);
    this.#in?.setRawMode(false);
    this.#in?.pause();
  };
}

export type Key =
  | "quit"
  | "interrupt"
  | "suspend"
  | "smoothing"
  | "log"
  | "next"
  | "previous"
  | "next-run"
  | "previous-run";

const KEYS: Record<string, Key> = {
  q: "quit",
  Q: "quit",
  "\x03": "interrupt",
  "\x1a": "suspend",
  s: "smoothing",
  l: "log",
  "\x1b[C": "next",
  "\x1b[B": "next",
  "\x1bOC": "next",
  "\x1bOB": "next",
  "\x1b[D": "previous",
  "\x1b[A": "previous",
  "\x1bOD": "previous",
  "\x1bOA": "previous",
  "\t": "next-run",
  "\x1b[Z": "previous-run",
};

/** The keys that were typed; those without a meaning are left out. */
export function readKeys(data: string): Key[] {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is how keys are sent
  const typed = data.match(/\x1b[[O][0-9;]*[A-Za-z~]|[\s\S]/g) ?? [];
  return typed.flatMap((text) => KEYS[text] ?? []);
}
