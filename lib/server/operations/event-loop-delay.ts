import { type IntervalHistogram, monitorEventLoopDelay } from "node:perf_hooks";

/** Milliseconds between two looks; what the histogram measures includes them. */
const RESOLUTION = 10;

/** How late timers come: how long the server's own thread is busy at one go. */
export class EventLoopDelay {
  readonly #histogram: IntervalHistogram = monitorEventLoopDelay({ resolution: RESOLUTION });

  constructor() {
    this.#histogram.enable();
  }

  /** The 99th percentile since the last call, in seconds; begins anew. */
  takeP99(): number {
    const nanoseconds = this.#histogram.percentile(99) || 0;
    this.#histogram.reset();
    return Math.max(0, nanoseconds / 1e9 - RESOLUTION / 1000);
  }

  close(): void {
    this.#histogram.disable();
  }
}
