import { type BenchRow, pairedRow, printTable, quantile } from "../../shared/harness.js";
import { CostMeter, type Costs } from "../cost-meter.js";
import { httpSender } from "../http-client.js";
import { closedLoop, type LoadResult, openLoop } from "../load.js";
import { ServerProcess } from "../server-process.js";
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

/** The server in a process of its own, by streams: closed loops up to saturation, then arrivals at shares of that rate. */
export async function http(setting: Setting): Promise<BenchRow[]> {
  const { options, model, scale, progress, peer } = setting;
  const { blockSize, device, threads, weights } = options;
  const server = await ServerProcess.start(
    model.folder,
    [
      ...["--device", device, "--block-size", String(blockSize), "--threads", String(threads)],
      ...["--cache-tokens", String(CACHE_TOKENS)],
      ...(weights === "int8" ? ["--quantization", "int8", "--dtype", "float32"] : ["--dtype", weights]),
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
  const measure = async (
    what: string,
    load: Pick<Run, "name" | "concurrency" | "rate">,
    drive: (requests: Workload, onWindow: (edge: "open" | "close") => Promise<void>) => Promise<LoadResult>,
  ) => {
    progress(`HTTP, ${model.name}, ${what}`);
    const costs = new CostMeter(server);
    const result = await drive(workload(), (edge) => costs.note(edge));
    runs.push(runOf(load, result, blockSize, costs));
  };
  const { send } = client;
  try {
    progress(`HTTP, ${model.name}, warming up`);
    const warmUp = workload();
    await closedLoop({ concurrency: 8, next: () => warmUp.next(), send, seconds: scale.window, tokens: 0 });
    await pacePeer();
    for (const concurrency of scale.concurrency) {
      const what = `${concurrency} at once`;
      await measure(what, { name: `${model.name}, ${what}`, concurrency }, (requests, onWindow) => {
        const tokens = options.quick ? 0 : concurrency * requests.meanOutput();
        const next = requests.prepared(options.quick ? 16 : 256);
        return closedLoop({ concurrency, next, send, seconds: scale.window, tokens, onWindow });
      });
    }
    await pacePeer();
    const saturated = Math.max(...runs.map((run) => run.tokensPerSecond)) / workload().meanOutput();
    for (const share of scale.rates) {
      const rate = share * saturated;
      const name = `${model.name}, arrivals at ${(100 * share).toFixed(0)} %`;
      await measure(`${rate.toFixed(2)} requests/s`, { name, rate }, (requests, onWindow) =>
        openLoop({ rate, next: () => requests.next(), send, seconds: scale.arrivals, seed: 17, onWindow }),
      );
    }
  } finally {
    client.close();
    await server.stop();
  }
  printRuns(runs);
  const peerMean = peerPace.reduce((sum, each) => sum + each, 0) / peerPace.length;
  return runs.map((run) => rowOf(setting, run, peerMean));
}

function runOf(
  load: Pick<Run, "name" | "concurrency" | "rate">,
  { timelines, window, tokensPerSecond, offered }: LoadResult,
  blockSize: number,
  { costs }: CostMeter,
): Run {
  if (!costs) throw new Error("the window never closed");
  return {
    ...load,
    ...(offered !== undefined && { offered }),
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
    ["", "ms a pass", "around the passes", "idle", "HTTP's processor time", "event loop p99 ms"],
    ...runs.map(({ name, concurrency, server }) => [
      name,
      server.modelMs.toFixed(2),
      percent(server.aroundShare),
      // Arrivals at random leave pauses that are nobody's cost.
      concurrency === undefined ? "-" : percent(server.idleShare),
      percent(server.httpCpuShare),
      server.eventLoopP99Ms.toFixed(1),
    ]),
  ]);
  console.log(
    "shares are of the time in passes; around: the engine between them; idle: until the next request is there",
  );
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
