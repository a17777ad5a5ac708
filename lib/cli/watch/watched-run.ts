import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { kindOf } from "../../base/regular-file.js";
import type { SampleEvent, StageInfo, StepEvent, TrainEvent } from "../../train/events.js";
import { addToReport, currentEvent, newReport, type ReportState } from "../../train/sinks/report-data.js";
import { Pace } from "../../train/sinks/summary.js";
import { CliError } from "../errors.js";
import { shownPath } from "../terminal.js";

/** The state of a run, read from its log. */
export class WatchedRun {
  readonly name: string;
  readonly #follower: LogFollower;
  #report: ReportState;
  #pace = new Pace();
  /** Whether the log does not exist yet. */
  waiting = true;
  /**
   * The current stage and its progress; `steps` is undefined at the start of a stage that ends after a number of
   * minutes.
   */
  stage: { index: number; name: string; step: number; steps: number | undefined } | undefined;
  step: StepEvent | undefined;
  sample: SampleEvent | undefined;
  checkpoint: { name: string; step: number; at: number } | undefined;
  /** Skipped steps. */
  skipped: { step: number; cause: string }[] = [];
  /** Time of the newest event, in milliseconds since 1970. */
  at: number | undefined;

  /** @param path the run's folder, or its metrics.jsonl */
  constructor(path: string) {
    const file = path.endsWith(".jsonl") ? path : join(path, "metrics.jsonl");
    this.name = path;
    this.#follower = new LogFollower(file);
    this.#report = newReport(basename(dirname(resolve(file))));
  }

  /** Curves, stages and warnings, as in the HTML report. */
  get report(): ReportState {
    return this.#report;
  }

  get stages(): readonly StageInfo[] {
    return (this.#report.run?.stages as StageInfo[] | undefined) ?? [];
  }

  get isOver(): boolean {
    return !this.waiting && this.#report.state !== "running";
  }

  /** Clean tokens per second, smoothed; undefined before the first step. */
  get tokensPerSecond(): number | undefined {
    return this.step && this.#pace.tokensPerSecond;
  }

  /** Seconds left in the whole run; undefined before the first step. */
  get secondsLeft(): number | undefined {
    return this.step && this.#pace.secondsLeft(this.step, this.stages);
  }

  /** Reads new events. @returns whether more can be read immediately */
  async read(): Promise<boolean> {
    const news = await this.#follower.poll();
    if (!news) return false;
    if (news.restarted) this.#forget();
    this.waiting = false;
    for (const event of news.events) this.#take(event);
    return news.more;
  }

  #forget(): void {
    this.#report = newReport(this.#report.title);
    this.#pace = new Pace();
    this.stage = undefined;
    this.step = undefined;
    this.sample = undefined;
    this.checkpoint = undefined;
    this.skipped = [];
    this.at = undefined;
  }

  #take(logged: LoggedEvent): void {
    const at = Date.parse(logged.time ?? "");
    try {
      const event = currentEvent(logged as unknown as TrainEvent);
      addToReport(this.#report, event, Number.isNaN(at) ? undefined : new Date(at));
      this.#follow(event, at);
    } catch {
      // An event of another version, without the required fields.
    }
  }

  #follow(event: TrainEvent, at: number): void {
    if (Number.isFinite(at)) this.at = at;
    switch (event.type) {
      case "start":
        this.skipped = this.skipped.filter(({ step }) => step <= event.globalStep);
        this.#pace.reset();
        break;
      case "stage-start":
        this.stage = { index: event.stage, name: event.name, step: event.step, steps: event.info.steps ?? undefined };
        this.#pace.reset();
        break;
      case "step":
        this.step = event;
        this.stage = { index: event.stage, name: event.name, step: event.step, steps: event.steps };
        this.#pace.add(event);
        if (event.skipped !== undefined) this.skipped.push({ step: event.globalStep, cause: event.skipped });
        break;
      case "sample":
        this.sample = event;
        break;
      case "checkpoint":
        this.checkpoint = { name: event.checkpoint, step: event.globalStep, at };
        break;
    }
  }
}

/** An event as logged in metrics.jsonl. Only `type` and `globalStep` are guaranteed. */
export interface LoggedEvent {
  type: string;
  globalStep: number;
  time?: string;
  [field: string]: unknown;
}

export interface LogNews {
  /** Whether reading started over, because the file was replaced or truncated. */
  restarted: boolean;
  events: LoggedEvent[];
  /** Whether more can be read immediately. */
  more: boolean;
}

const CHUNK = 4 << 20;

/**
 * Follows a metrics.jsonl. The file may not exist yet, and may be replaced (by a resumed run) or truncated; a line that
 * is still being written is read when it is complete.
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
   * Reads new events, at most a few megabytes; undefined while the file does not exist.
   *
   * @throws CliError if the file cannot be read
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
      return []; // an empty line, or one that a crash left incomplete
    }
  });
}
