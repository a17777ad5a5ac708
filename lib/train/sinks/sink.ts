import type { FailedEvent, TrainEvent } from "../events.js";

/** Somewhere a run's events go. A sink that throws is warned about and asked again with the next event. */
export interface Sink {
  /** Named in warnings. */
  readonly name: string;
  write(event: TrainEvent | FailedEvent): void | Promise<void>;
  close?(): void | Promise<void>;
}
