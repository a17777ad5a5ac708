import type { EngineError } from "./errors.js";
import type { EngineEvent, ScoreResult } from "./types.js";

/** What the core reports of one request. `error` and `last` end it. */
export interface CoreReport {
  key: number;
  events: EngineEvent[];
  /** The result of a score. */
  score?: ScoreResult;
  error?: EngineError;
  last: boolean;
}

/**
 * Collects the events of passes and sends them. A message to another thread or process costs some 0.1 ms, a twentieth of
 * a short pass, and more at its receiver, so events of short passes are sent together, at most `interval` ms late. A
 * request's first text and its end are sent at once.
 */
export class Reports {
  readonly #send: (reports: CoreReport[]) => void;
  readonly #interval: number;
  readonly #pending = new Map<number, CoreReport>();
  /** Requests whose first text was sent. */
  readonly #withText = new Set<number>();
  #urgent = false;
  #sentAt = Number.NEGATIVE_INFINITY;

  /** @param interval in ms; 0: after every pass */
  constructor(send: (reports: CoreReport[]) => void, interval: number) {
    this.#send = send;
    this.#interval = interval;
  }

  emit(key: number, events: readonly EngineEvent[]): void {
    if (events.length === 0) return;
    const report = this.#reportOf(key);
    for (const event of events) {
      if (event.type === "text" && !this.#withText.has(key)) {
        this.#withText.add(key);
        this.#urgent = true;
      }
      append(report.events, event);
    }
  }

  scored(key: number, result: ScoreResult): void {
    this.#reportOf(key).score = result;
  }

  fail(key: number, error: EngineError): void {
    this.#reportOf(key).error = error;
  }

  /** A request has ended: its events so far are the last. */
  end(key: number): void {
    this.#reportOf(key).last = true;
    this.#withText.delete(key);
    this.#urgent = true;
  }

  /** Sends the collected reports, unless they may wait for a pass that takes about `passMs`. */
  pace(passMs: number): void {
    if (this.#urgent || performance.now() + passMs - this.#sentAt > this.#interval) this.flush();
  }

  flush(): void {
    if (this.#pending.size === 0) return;
    const reports = [...this.#pending.values()];
    this.#pending.clear();
    this.#urgent = false;
    this.#sentAt = performance.now();
    this.#send(reports);
  }

  #reportOf(key: number): CoreReport {
    let report = this.#pending.get(key);
    if (!report) {
      report = { key, events: [], last: false };
      this.#pending.set(key, report);
    }
    return report;
  }
}

/** Text that follows text of the same choice becomes one event. */
function append(events: EngineEvent[], event: EngineEvent): void {
  const last = events.at(-1);
  if (event.type !== "text" || last?.type !== "text" || last.index !== event.index) {
    events.push(event);
    return;
  }
  last.text += event.text;
  last.ids.push(...event.ids);
  last.tokens.push(...event.tokens);
}
