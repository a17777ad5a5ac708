import { messageOf } from "../../torch/errors.js";
import type { FailedEvent, TrainEvent } from "../events.js";
import { settled } from "../user-code.js";

/**
 * A destination for a run's events. If a sink throws, a warning is issued, and the sink still receives the next event.
 */
export interface Sink {
  /** Name in warnings. */
  readonly name: string;
  write(event: TrainEvent | FailedEvent): void | Promise<void>;
  close?(): void | Promise<void>;
}

/** Seconds that a sink may take for an event. A sink that takes longer receives no more events. */
const SINK_PATIENCE = 60;

/** Sends events to sinks. A sink that fails does not end the run. */
export class Sinks implements AsyncDisposable {
  readonly #sinks: readonly Sink[];
  readonly #warned = new Set<Sink>();
  readonly #stuck = new Set<Sink>();

  constructor(sinks: readonly Sink[]) {
    this.#sinks = sinks;
  }

  /** Drops all sinks without closing them, because their files belong to another run now. */
  abandon(): void {
    for (const sink of this.#sinks) this.#stuck.add(sink);
  }

  /** @returns a warning if a sink fails for the first time */
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

  /** Waits for a sink, up to SINK_PATIENCE. */
  #settled(sink: Sink, work: void | Promise<void> | undefined): Promise<void> {
    const failure = (problem: string) => {
      this.#stuck.add(sink);
      return new Error(`${problem}. It receives no more events`);
    };
    return settled(work ?? undefined, failure, SINK_PATIENCE);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const sink of this.#sinks) {
      if (this.#stuck.has(sink)) continue;
      try {
        await this.#settled(sink, sink.close?.());
      } catch {
        // Its first failure issued a warning; after the last event no warning can be issued.
      }
    }
  }
}
