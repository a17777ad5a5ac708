import { setTimeout as sleep } from "node:timers/promises";
import type { Metrics, ServerProcess } from "./server-process.js";

/** Where the server's time went while a load ran. */
export interface Costs {
  forwards: number;
  modelMs: number;
  /** By the engine's own clock: scheduling, choices on the host, events. Share of the model's passes. */
  schedulerShare: number;
  /** All that was no pass, with the wait for processes and requests: means something where there is always work. */
  aroundShare: number;
  /** Processor time of the HTTP process, as a share of the model's passes. */
  httpCpuShare?: number;
  eventLoopP99Ms: number;
}

/** Reads the server's counters as a window opens and closes. */
export class CostMeter {
  readonly #server: ServerProcess;
  #open: { at: number; metrics: Metrics; cpu?: number } | undefined;
  costs: Costs | undefined;

  constructor(server: ServerProcess) {
    this.#server = server;
  }

  /** @param busy whether passes follow each other: then the edge is put where one has just ended */
  async note(edge: "open" | "close", busy: boolean): Promise<void> {
    const first = await this.#server.metrics();
    const metrics = busy ? await this.#afterPass(first) : first;
    const now = { at: performance.now(), metrics, cpu: this.#server.cpuSeconds() };
    if (edge === "open" || !this.#open) {
      this.#open = now;
      return;
    }
    const before = this.#open;
    const grown = (name: string) =>
      (metrics.get(`diffcoder:${name}`) ?? Number.NaN) - (before.metrics.get(`diffcoder:${name}`) ?? Number.NaN);
    const model = grown("engine_model_seconds_total");
    this.costs = {
      forwards: grown("forwards_total"),
      modelMs: (1000 * model) / grown("forwards_total"),
      schedulerShare: grown("engine_other_seconds_total") / model,
      aroundShare: (now.at - before.at) / 1000 / model - 1,
      ...(now.cpu !== undefined && before.cpu !== undefined && { httpCpuShare: (now.cpu - before.cpu) / model }),
      // Begins anew with each reading: only the first one speaks of the whole window.
      eventLoopP99Ms: 1000 * (first.get("diffcoder:event_loop_delay_p99_seconds") ?? Number.NaN),
    };
  }

  /** The engine tells of itself now and then: waits until it has just done so. */
  async #afterPass(first: Metrics): Promise<Metrics> {
    const forwards = (metrics: Metrics) => metrics.get("diffcoder:forwards_total");
    for (let i = 0; i < 400; i++) {
      const now = await this.#server.metrics();
      if (forwards(now) !== forwards(first)) return now;
      await sleep(5);
    }
    return first;
  }
}
