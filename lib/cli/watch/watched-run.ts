import { basename, dirname, join, resolve } from "node:path";
import type { SampleEvent, StageInfo, StepEvent, TrainEvent } from "../../train/events.js";
import { addToReport, currentEvent, newReport, type ReportState } from "../../train/sinks/report-data.js";
import { Pace } from "../../train/sinks/summary.js";
import { LogFollower, type LoggedEvent } from "./log-follower.js";

/** A run as its log tells of it. */
export class WatchedRun {
  readonly name: string;
  readonly #follower: LogFollower;
  #report: ReportState;
  #pace = new Pace();
  /** There is no log yet. */
  waiting = true;
  /** The stage at hand and how far it is; `steps` is undefined where a stage ends by the clock and has just begun. */
  stage: { index: number; name: string; step: number; steps: number | undefined } | undefined;
  step: StepEvent | undefined;
  sample: SampleEvent | undefined;
  checkpoint: { name: string; step: number; at: number } | undefined;
  /** Steps that changed nothing. */
  skipped: { step: number; cause: string }[] = [];
  /** When the newest event was written, in milliseconds since 1970. */
  at: number | undefined;

  /** @param path the run's folder, or its metrics.jsonl */
  constructor(path: string) {
    const file = path.endsWith(".jsonl") ? path : join(path, "metrics.jsonl");
    this.name = path;
    this.#follower = new LogFollower(file);
    this.#report = newReport(basename(dirname(resolve(file))));
  }

  /** Curves, stages, warnings: what the HTML report holds. */
  get report(): ReportState {
    return this.#report;
  }

  get stages(): readonly StageInfo[] {
    return (this.#report.run?.stages as StageInfo[] | undefined) ?? [];
  }

  get isOver(): boolean {
    return !this.waiting && this.#report.state !== "running";
  }

  /** Clean tokens a second, smoothed; undefined before the first step. */
  get tokensPerSecond(): number | undefined {
    return this.step && this.#pace.tokensPerSecond;
  }

  /** Of the whole run; undefined before the first step. */
  get secondsLeft(): number | undefined {
    return this.step && this.#pace.secondsLeft(this.step, this.stages);
  }

  /** Reads what is new. @returns whether there is more to read at once */
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
      // Another version's event, which lacks what ours have.
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
