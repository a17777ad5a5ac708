import { setTimeout as sleep } from "node:timers/promises";
import { type BenchRow, pairedRow, printTable, quantile } from "../../shared/harness.js";
import { httpSender } from "../http-client.js";
import { closedLoop, type LoadResult, openLoop } from "../load.js";
import { type Metrics, ServerProcess } from "../server-process.js";
import { CACHE_TOKENS, loadCommit, type Setting } from "../setting.js";
import { type Latencies, latencies, spread, tokensPerForward } from "../timeline.js";
import { Workload } from "../workload.js";

/** One load and what came of it. */
interface Run {
  name: string;
  concurrency?: number;
  /** Requests a second. */
  rate?: number;
  tokensPerSecond: number;
  offered?: number;
  finished: number;
  errors: string[];
  latencies: Latencies;
  tokensPerForward: number;
  server: Costs;
}

/** Where the server's time went while a load ran. */
interface Costs {
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

/** The server in a process of its own, by streams: closed loops up to saturation, then arrivals at shares of that rate. */
export async function http(setting: Setting): Promise<BenchRow[]> {
  const { options, model, scale, progress, peer } = setting;
  const { blockSize, device, threads, weights } = options;
  const server = await ServerProcess.start(
    model.folder,
    [
      ...["--device", device, "--block-size", String(blockSize), "--threads", String(threads)],
      ...["--cache-tokens", String(CACHE_TOKENS)],
      ...(weights === "int8" ? ["--int8", "--dtype", "float32"] : ["--dtype", weights]),
    ],
    { OMP_NUM_THREADS: String(threads) },
  );
  const commit = loadCommit(setting);
  const client = httpSender(server.url, commit);
  const runs: Run[] = [];
  const peerPace: number[] = [];
  let seed = 5000;
  const workload = () => new Workload(model.tokenizer, scale.lengths, seed++);
  const pacePeer = async () => {
    const requests = workload();
    const items = Array.from({ length: 64 }, () => requests.next());
    peerPace.push((await peer.serve(items, scale.window, commit)).tokensPerSecond);
  };
  try {
    await pacePeer();
    for (const concurrency of scale.concurrency) {
      progress(`HTTP, ${model.name}, ${concurrency} at once`);
      const requests = workload();
      const costs = new CostMeter(server);
      const result = await closedLoop({
        concurrency,
        next: () => requests.next(),
        send: client.send,
        seconds: scale.window,
        tokens: options.quick ? 0 : concurrency * requests.meanOutput(),
        onWindow: (edge) => costs.note(edge, true),
      });
      runs.push(runOf(`${model.name}, ${concurrency} at once`, result, blockSize, costs, { concurrency }));
    }
    await pacePeer();
    const saturated = Math.max(...runs.map((run) => run.tokensPerSecond)) / workload().meanOutput();
    for (const share of scale.rates) {
      const rate = share * saturated;
      progress(`HTTP, ${model.name}, ${rate.toFixed(2)} requests/s`);
      const requests = workload();
      const costs = new CostMeter(server);
      const result = await openLoop({
        rate,
        next: () => requests.next(),
        send: client.send,
        seconds: scale.arrivals,
        seed: 17,
        onWindow: (edge) => costs.note(edge, false),
      });
      const { offered } = result;
      const name = `${model.name}, arrivals at ${(100 * share).toFixed(0)} %`;
      runs.push(runOf(name, result, blockSize, costs, { rate, offered }));
    }
  } finally {
    client.close();
    await server.stop();
  }
  printRuns(runs);
  const peerMean = peerPace.reduce((sum, each) => sum + each, 0) / peerPace.length;
  return runs.map((run) => rowOf(setting, run, peerMean));
}

/** Reads the server's counters as a window opens and closes. */
class CostMeter {
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

function runOf(
  name: string,
  { timelines, window, tokensPerSecond }: LoadResult,
  blockSize: number,
  { costs }: CostMeter,
  load: Pick<Run, "concurrency" | "rate" | "offered">,
): Run {
  if (!costs) throw new Error("the window never closed");
  return {
    name,
    ...load,
    tokensPerSecond,
    finished: timelines.filter(({ ended }) => ended !== undefined && ended >= window.from && ended <= window.to).length,
    errors: timelines.flatMap(({ error }) => (error === undefined ? [] : [error])),
    latencies: latencies(timelines, blockSize, window),
    tokensPerForward: tokensPerForward(timelines),
    server: costs,
  };
}

function printRuns(runs: readonly Run[]): void {
  const percent = (share: number | undefined) => (share === undefined ? "-" : `${(100 * share).toFixed(1)} %`);
  const twoOf = (value: number) => (Number.isFinite(value) ? value.toFixed(2) : "-");
  printTable([
    ["", "tokens/s", "requests", "errors", "TTFT ms", "first block ms", "block ms", "request ms", "tokens a pass"],
    ...runs.map((run) => [
      run.name,
      run.tokensPerSecond.toFixed(1),
      String(run.finished),
      String(run.errors.length),
      spread(run.latencies.firstToken),
      spread(run.latencies.firstBlock),
      spread(run.latencies.block),
      spread(run.latencies.whole),
      twoOf(run.tokensPerForward),
    ]),
  ]);
  console.log("latencies: median / 99th percentile");
  printTable([
    ["", "ms a pass", "scheduler", "scheduler + HTTP", "HTTP's processor time", "event loop p99 ms"],
    ...runs.map(({ name, concurrency, server }) => [
      name,
      server.modelMs.toFixed(2),
      percent(server.schedulerShare),
      // With pauses between requests the wait for them would count.
      concurrency === undefined ? "-" : percent(server.aroundShare),
      percent(server.httpCpuShare),
      server.eventLoopP99Ms.toFixed(1),
    ]),
  ]);
  console.log("shares are of the model's passes; scheduler + HTTP: all the time of the window in which no pass ran");
  const errors = new Set(runs.flatMap((run) => run.errors));
  if (errors.size > 0) console.log(`errors: ${[...errors].join("; ")}`);
}

function rowOf({ model, options }: Setting, run: Run, peer: number): BenchRow {
  const { name, tokensPerSecond, latencies: times, errors, finished, server, ...details } = run;
  const quantiles = Object.fromEntries(
    Object.entries(times).map(([what, values]: [string, number[]]) => [
      what,
      values.length === 0
        ? null
        : { count: values.length, p50: quantile(values, 0.5), p90: quantile(values, 0.9), p99: quantile(values, 0.99) },
    ]),
  );
  return pairedRow(`HTTP: ${name}`, "tokens/s", [tokensPerSecond], [peer], {
    part: "http",
    model: model.name,
    weights: options.weights,
    ...details,
    requests: finished,
    errors: errors.length,
    latencyMs: quantiles,
    server,
  });
}
