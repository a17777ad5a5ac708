import { SingleBar } from "cli-progress";

/** A bar on standard error for work measured in bytes; nothing where that is not a terminal. */
export class BytesBar implements Disposable {
  readonly #bar: SingleBar | undefined;

  constructor(title: string, stream: NodeJS.WriteStream = process.stderr) {
    if (!stream.isTTY) return;
    this.#bar = new SingleBar({
      format: `${title} [{bar}] {percentage}%  {line}`,
      stream,
      hideCursor: true,
      clearOnComplete: true,
    });
    this.#bar.start(1, 0, { line: "" });
  }

  update(done: number, total: number, line: string): void {
    this.#bar?.setTotal(Math.max(1, total));
    this.#bar?.update(done, { line });
  }

  [Symbol.dispose](): void {
    this.#bar?.stop();
  }
}
