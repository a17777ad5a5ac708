import { createHash } from "node:crypto";
import { readRegularFile } from "../../base/regular-file.js";
import { ServerError } from "../errors.js";

/** Milliseconds between two looks. Kubernetes swaps a link when a secret changes, which file events miss. */
const INTERVAL = 2_000;
/** Of a certificate or a list of keys. */
const MAX_BYTES = 16 * 2 ** 20;

/**
 * Files that may be replaced while the server runs: certificates, API keys. They are read again every few seconds;
 * contents that `use` refuses are reported and the old ones stay in use.
 */
export class WatchedFiles {
  readonly #paths: readonly string[];
  readonly #use: (contents: Buffer[]) => void;
  readonly #report: (problem: Error | undefined) => void;
  readonly #timer: NodeJS.Timeout;
  #seen: string;
  /** Why the files could not be read at the last look. */
  #unreadable: string | undefined;

  /**
   * @param use takes the contents; called at once, where it may throw, and after each change
   * @param report called after each change: with undefined if the new files are in use, else with the error; and once that files cannot be read
   * @param interval milliseconds between two looks
   * @throws ServerError SERVER_FILE for a file that cannot be read
   */
  constructor(
    paths: readonly string[],
    use: (contents: Buffer[]) => void,
    report: (problem: Error | undefined) => void,
    interval: number = INTERVAL,
  ) {
    this.#paths = paths;
    this.#use = use;
    this.#report = report;
    const contents = this.#read();
    this.#seen = digest(contents);
    use(contents);
    this.#timer = setInterval(() => this.#look(), interval).unref();
  }

  #look(): void {
    let contents: Buffer[];
    try {
      contents = this.#read();
    } catch (error) {
      const { message } = error as Error;
      if (message !== this.#unreadable) this.#report(error as Error);
      this.#unreadable = message;
      return;
    }
    this.#unreadable = undefined;
    const seen = digest(contents);
    if (seen === this.#seen) return;
    this.#seen = seen;
    try {
      this.#use(contents);
    } catch (error) {
      this.#report(error as Error);
      return;
    }
    this.#report(undefined);
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #read(): Buffer[] {
    return this.#paths.map((path) => {
      try {
        return readRegularFile(path, MAX_BYTES);
      } catch (cause) {
        throw new ServerError("SERVER_FILE", `${path} cannot be read: ${(cause as Error).message}`, { cause });
      }
    });
  }
}

function digest(contents: readonly Buffer[]): string {
  const hash = createHash("sha256");
  for (const content of contents) hash.update(`${content.length}:`).update(content);
  return hash.digest("hex");
}
