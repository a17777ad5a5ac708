import { messageOf } from "../../torch/errors.js";
import type { FailedEvent, TrainEvent } from "../events.js";
import { settled } from "../user-code.js";

/** Somewhere a run's events go. A sink that throws is warned about and asked again with the next event. */
export interface Sink {
  /** Named in warnings. */
  readonly name: string;
  write(event: TrainEvent | FailedEvent): void | Promise<void>;
  close?(): void | Promise<void>;
}

/** Seconds that a sink may take for an event. One that takes longer is not asked again. */
const SINK_PATIENCE = 60;

/** Hands events to sinks. One that fails is not a reason to lose a run. */
export class Sinks implements AsyncDisposable {
  readonly #sinks: readonly Sink[];
  readonly #warned = new Set<Sink>();
  readonly #stuck = new Set<Sink>();

  constructor(sinks: readonly Sink[]) {
    this.#sinks = sinks;
  }

  /** They get nothing more, not even their end: what they would write to is another run's. */
  abandon(): void {
    for (const sink of this.#sinks) this.#stuck.add(sink);
  }

  /** @returns a warning when a sink fails for the first time */
  async write(event: TrainEvent | FailedEvent): Promise<TrainEvent | undefined> {
    let warning: TrainEvent | undefined;
    for (const sink of this.#sinks) {
      if (this.#stuck.has(sink)) continue;
      try {
        await this.#settled(sink, sink.write(event));
      } catch (error) {
        if (this.#warned.has(sink)) continue;
        this.#warned.add(sink);
        const message = `cannot write to ${sink.name}: ${messageOf(error)}`;
        warning = { type: "warning", globalStep: event.globalStep, code: "SINK", message };
      }
    }
    return warning;
  }

  /** Waits for a sink, but not for ever. */
  #settled(sink: Sink, work: void | Promise<void> | undefined): Promise<void> {
    const failure = (problem: string) => {
      this.#stuck.add(sink);
      return new Error(`${problem}. It gets no more events`);
    };
    return settled(work ?? undefined, failure, SINK_PATIENCE);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const sink of this.#sinks) {
      if (this.#stuck.has(sink)) continue;
      try {
        await this.#settled(sink, sink.close?.());
      } catch {
        // It was warned about when it failed first; at the end there is nobody left to tell.
      }
    }
  }
}
