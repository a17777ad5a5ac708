import { type IntervalHistogram, monitorEventLoopDelay } from "node:perf_hooks";

/** Milliseconds between two looks; what the histogram measures includes them. */
const RESOLUTION = 10;

/** How late timers come: how long the server's own thread is busy at one go. */
export class EventLoopDelay {
  readonly #histogram: IntervalHistogram = monitorEventLoopDelay({ resolution: RESOLUTION });

  constructor() {
    this.#histogram.enable();
  }

  /** Seconds since the last call; begins anew. */
  take(): { p50: number; p99: number; max: number } {
    const seconds = (nanoseconds: number) => Math.max(0, (nanoseconds || 0) / 1e9 - RESOLUTION / 1000);
    const { max } = this.#histogram;
    const taken = {
      p50: seconds(this.#histogram.percentile(50)),
      p99: seconds(this.#histogram.percentile(99)),
      max: seconds(max),
    };
    this.#histogram.reset();
    return taken;
  }

  close(): void {
    this.#histogram.disable();
  }
}
