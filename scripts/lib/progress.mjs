// What set-up shows: numbered steps with their time; a moving line on a terminal, plain lines elsewhere.
const frames = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/** @param {number} milliseconds */
export function elapsed(milliseconds) {
  const seconds = milliseconds / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return `${Math.floor(seconds / 60)} min ${String(Math.floor(seconds % 60)).padStart(2, "0")} s`;
}

/** Prints numbered steps. Nothing is printed for steps that have nothing to do. */
export class Progress {
  #stream;
  #interactive;
  #total = 0;
  #done = 0;
  #plainInterval;

  /**
   * @param {{ stream?: NodeJS.WriteStream, interactive?: boolean, plainInterval?: number }} [options]
   * plainInterval: milliseconds between two lines of one step where there is no terminal
   */
  constructor({ stream = process.stderr, interactive, plainInterval = 20_000 } = {}) {
    this.#stream = stream;
    this.#interactive = interactive ?? (Boolean(stream.isTTY) && !process.env.CI && process.env.TERM !== "dumb");
    this.#plainInterval = plainInterval;
  }

  /** @param {number} total how many steps will come */
  expect(total) {
    this.#total = total;
    this.#done = 0;
  }

  /** A line of its own. */
  note(text) {
    this.#stream.write(`${text}\n`);
  }

  /**
   * Runs one step and shows how it goes.
   * @template T
   * @param {string} title
   * @param {(report: (detail: string) => void) => Promise<T>} work may report what it is doing
   * @param {(result: T) => string} [outcome] what the last line says of the result; "" for nothing
   * @returns {Promise<T>}
   */
  async step(title, work, outcome = () => "") {
    const label = `[${++this.#done}/${this.#total}] ${title}`;
    const started = Date.now();
    let detail = "";
    let timer;
    const clear = () => this.#interactive && this.#stream.write("\r\x1b[2K");
    if (this.#interactive) {
      let frame = 0;
      timer = setInterval(() => {
        const line = `${frames[frame++ % frames.length]} ${label}  ${elapsed(Date.now() - started)}  ${detail}`;
        this.#stream.write(`\r\x1b[2K${line.slice(0, Math.max(20, (this.#stream.columns || 80) - 1))}`);
      }, 100);
    } else {
      this.#stream.write(`${label} ...\n`);
      timer = setInterval(() => {
        this.#stream.write(`${label}: ${elapsed(Date.now() - started)}${detail ? `, ${detail}` : ""}\n`);
      }, this.#plainInterval);
    }
    try {
      const result = await work((text) => {
        detail = text;
      });
      clear();
      const how = outcome(result);
      const done = `${how ? `${how}, ` : ""}done in ${elapsed(Date.now() - started)}`;
      this.#stream.write(`${this.#interactive ? "✔ " : ""}${label}: ${done}\n`);
      return result;
    } catch (error) {
      clear();
      this.#stream.write(`${this.#interactive ? "✖ " : ""}${label}: failed after ${elapsed(Date.now() - started)}\n`);
      throw error;
    } finally {
      clearInterval(timer);
    }
  }
}
