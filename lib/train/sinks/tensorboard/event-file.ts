import { mkdirSync, readdirSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { AppendFile } from "../append-file.js";
import { type EventContent, encodeEvent } from "./event.js";
import { record } from "./record.js";

const NAME = /^events\.out\.tfevents\.(\d+)\./;

/** A new file of events in a folder. TensorBoard reads a folder's files in the order of their names. */
export class EventFile {
  readonly path: string;
  /** Whether the folder had no events before. */
  readonly isFirst: boolean;
  readonly #file: AppendFile;

  constructor(folder: string) {
    mkdirSync(folder, { recursive: true });
    const before = readdirSync(folder).flatMap((name) => NAME.exec(name)?.[1] ?? []);
    this.isFirst = before.length === 0;
    // Later than every file there, even one that was begun in this very second or by a clock that runs ahead.
    const stamp = Math.max(Math.floor(Date.now() / 1000), ...before.map((stamp) => Number(stamp) + 1));
    this.path = join(folder, `events.out.tfevents.${String(stamp).padStart(10, "0")}.${hostname()}.${process.pid}.0`);
    this.#file = new AppendFile(this.path, "ax+");
  }

  /** Appends events of a step, which readers see at once. */
  append(step: number, ...contents: readonly EventContent[]): void {
    const time = Date.now() / 1000;
    this.#file.append(Buffer.concat(contents.map((content) => record(encodeEvent(time, step, content)))));
  }

  /** Waits until everything is on the disk. */
  flush(): void {
    this.#file.flush();
  }

  close(): void {
    this.#file.close();
  }
}
