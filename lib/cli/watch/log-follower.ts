import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { kindOf } from "../../base/regular-file.js";
import { CliError } from "../errors.js";
import { shownPath } from "../show.js";

/** An event of metrics.jsonl as it stands there. Only `type` and `globalStep` are sure. */
export interface LoggedEvent {
  type: string;
  globalStep: number;
  time?: string;
  [field: string]: unknown;
}

export interface LogNews {
  /** What is read now begins anew: the file is another one, or was cut. */
  restarted: boolean;
  events: LoggedEvent[];
  /** More is there already. */
  more: boolean;
}

const CHUNK = 4 << 20;

/**
 * Reads what is appended to a metrics.jsonl. The file may not be there yet, may be replaced by another (a run that goes on
 * does so) or be cut; a line that is still being written is read when it is whole.
 */
export class LogFollower {
  readonly path: string;
  #inode = -1;
  #position = 0;
  #rest = Buffer.alloc(0);

  constructor(path: string) {
    this.path = path;
  }

  /**
   * What is new; undefined while there is no file. Reads a few megabytes at most.
   *
   * @throws CliError where something is there that cannot be read
   */
  async poll(): Promise<LogNews | undefined> {
    try {
      return await this.#read();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw new CliError(`cannot read ${shownPath(this.path)}: ${(error as Error).message}`, { cause: error });
    }
  }

  async #read(): Promise<LogNews> {
    const file = await open(this.path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    try {
      const stats = await file.stat();
      if (!stats.isFile()) throw new Error(`it is ${kindOf(stats)}, expected a regular file`);
      const { ino, size } = stats;
      const restarted = ino !== this.#inode || size < this.#position;
      if (restarted) {
        this.#inode = ino;
        this.#position = 0;
        this.#rest = Buffer.alloc(0);
      }
      const buffer = Buffer.allocUnsafe(Math.min(CHUNK, size - this.#position));
      const { bytesRead } = await file.read(buffer, 0, buffer.length, this.#position);
      this.#position += bytesRead;
      const bytes = Buffer.concat([this.#rest, buffer.subarray(0, bytesRead)]);
      const end = bytes.lastIndexOf(0x0a) + 1;
      this.#rest = Buffer.from(bytes.subarray(end));
      return { restarted, events: parse(bytes.toString("utf8", 0, end)), more: this.#position < size };
    } finally {
      await file.close();
    }
  }
}

function parse(text: string): LoggedEvent[] {
  return text.split("\n").flatMap((line) => {
    try {
      const value = JSON.parse(line) as Partial<LoggedEvent> | null;
      return typeof value?.type === "string" && typeof value.globalStep === "number" ? [value as LoggedEvent] : [];
    } catch {
      return []; // an empty line, or one that a crash tore
    }
  });
}
