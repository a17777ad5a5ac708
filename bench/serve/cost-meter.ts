import type { Metrics, ServerProcess } from "./server-process.js";

/** Where the server's time went while a load ran. Shares are of the time in the model's passes. */
export interface Costs {
  forwards: number;
  modelMs: number;
  /** Of the engine between passes: scheduling, events, messages, waiting for a processor. */
  aroundShare: number;
  /** Of the engine with nothing to generate: from a text's end until the next request is there. */
  idleShare: number;
  /** Processor time of the HTTP process. */
  httpCpuShare?: number;
  eventLoopP99Ms: number;
}

interface Reading {
  at: number;
  metrics: Metrics;
  cpu?: number;
}

/** Reads the server's counters as a window opens and closes. */
export class CostMeter {
  readonly #server: ServerProcess;
  #opened: Reading | undefined;
  costs: Costs | undefined;

  constructor(server: ServerProcess) {
    this.#server = server;
  }

  async note(edge: "open" | "close"): Promise<void> {
    const now = { at: performance.now(), metrics: await this.#server.metrics(), cpu: this.#server.cpuSeconds() };
    if (edge === "open") this.#opened = now;
    else if (this.#opened) this.costs = costsBetween(this.#opened, now);
  }
}

/** The engine tells of itself now and then: its counters are of the same moment, but not of the reading's. */
function costsBetween(before: Reading, after: Reading): Costs {
  const grown = (name: string) => {
    const [from, to] = [before, after].map(({ metrics }) => metrics.get(`diffcoder:${name}`) ?? Number.NaN);
    return to - from;
  };
  const [model, other, idle] = ["model", "other", "idle"].map((what) => grown(`engine_${what}_seconds_total`));
  const modelsTime = model / (model + other + idle);
  const seconds = (after.at - before.at) / 1000;
  return {
    forwards: grown("forwards_total"),
    modelMs: (1000 * model) / grown("forwards_total"),
    aroundShare: other / model,
    idleShare: idle / model,
    ...(after.cpu !== undefined &&
      before.cpu !== undefined && { httpCpuShare: (after.cpu - before.cpu) / seconds / modelsTime }),
    // Begins anew with each reading, so this is of the whole window.
    eventLoopP99Ms: 1000 * (after.metrics.get("diffcoder:event_loop_delay_p99_seconds") ?? Number.NaN),
  };
}
