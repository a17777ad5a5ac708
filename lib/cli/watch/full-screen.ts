import type { ReadStream, WriteStream } from "node:tty";

const ENTER = "\x1b[?1049h\x1b[?25l"; // the alternate screen; no cursor
const LEAVE = "\x1b[?25h\x1b[?1049l";

/**
 * Takes over the whole screen of a terminal. It is restored on dispose, at the end of the process, on an uncaught
 * error, and on signals that end the process.
 */
export class FullScreen implements Disposable {
  readonly #out: WriteStream;
  readonly #in: ReadStream | undefined;
  #isOn = false;
  #onKeys: ((data: Buffer) => void) | undefined;

  /** @param input stream of key presses; default: no keys */
  constructor(out: WriteStream, input?: ReadStream) {
    this.#out = out;
    this.#in = input;
    process.on("exit", this.#off);
    process.on("uncaughtExceptionMonitor", this.#off);
    this.#on();
  }

  /** Replaces the contents of the screen with one write. */
  draw(lines: readonly string[]): void {
    if (!this.#isOn) return;
    // Terminals with mode 2026 update the screen atomically; others ignore it.
    this.#out.write(`\x1b[?2026h\x1b[H${lines.map((line) => `${line}\x1b[K`).join("\r\n")}\x1b[J\x1b[?2026l`);
  }

  onKeys(listener: (data: Buffer) => void): void {
    this.#onKeys = listener;
    this.#in?.on("data", listener);
  }

  /** Handles Ctrl-Z: restores the shell's screen, and takes it over again after `fg`. */
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

/** Parses key presses; unknown keys are ignored. */
export function readKeys(data: string): Key[] {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: terminals send keys as control characters
  const typed = data.match(/\x1b[[O][0-9;]*[A-Za-z~]|[\s\S]/g) ?? [];
  return typed.flatMap((text) => KEYS[text] ?? []);
}
