import { SingleBar } from "cli-progress";

/** Milliseconds between two plain lines. */
const LINE_INTERVAL = 10_000;

export interface ProgressBarOptions {
  /** Write a plain line every ten seconds if the stream is not a terminal. Default: write nothing there. */
  plainLines?: boolean;
  stream?: NodeJS.WriteStream;
}

/** Progress of one piece of work, on standard error: a bar with the remaining time on a terminal. */
export class ProgressBar implements Disposable {
  readonly #title: string;
  readonly #stream: NodeJS.WriteStream;
  readonly #plainLines: boolean;
  #bar: SingleBar | undefined;
  #first: { done: number; at: number } | undefined;
  #writtenAt = performance.now();

  constructor(title: string, { plainLines = false, stream = process.stderr }: ProgressBarOptions = {}) {
    this.#title = title;
    this.#stream = stream;
    this.#plainLines = plainLines;
  }

  /** @param line what is being worked on */
  update(done: number, total: number, line = ""): void {
    if (this.#stream.isTTY) {
      this.#bar ??= this.#start(done, total);
      this.#bar.setTotal(Math.max(1, total));
      this.#bar.update(done, { line });
    } else if (this.#plainLines) this.#writeLine(done, total);
  }

  stop(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }

  [Symbol.dispose](): void {
    this.stop();
  }

  #start(done: number, total: number): SingleBar {
    const format = `${this.#title} [{bar}] {percentage}%  {eta_formatted} left  {line}`;
    const bar = new SingleBar({ format, stream: this.#stream, hideCursor: true, clearOnComplete: true });
    bar.start(Math.max(1, total), done, { line: "" });
    return bar;
  }

  #writeLine(done: number, total: number): void {
    const now = performance.now();
    this.#first ??= { done, at: now };
    if (now - this.#writtenAt < LINE_INTERVAL) return;
    this.#writtenAt = now;
    const rate = (1000 * (done - this.#first.done)) / (now - this.#first.at);
    const left = rate > 0 ? `, ${rate.toFixed(1)} per second, ${Math.ceil((total - done) / rate)} s left` : "";
    this.#stream.write(`${this.#title}: ${done} of ${total}${left}\n`);
  }
}
