import { type IntervalHistogram, monitorEventLoopDelay } from "node:perf_hooks";
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { DoneEvent, EngineStats } from "../../engine/index.js";
import type { Connections } from "./connections.js";
import type { Uploads } from "./uploads.js";

/** Names are vLLM's behind this prefix, and so are their meanings: dashboards carry over by replacing "vllm:". */
const PREFIX = "diffcoder:";
const LATENCY = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960];
const FIRST = [
  ...[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640],
];
const BETWEEN = [
  ...[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20],
];
const TOKENS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000];
const PER_FORWARD = [0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 6, 8, 16, 32];

export interface MetricsOptions {
  modelName: string;
  /** Undefined while the engine starts. */
  stats: () => EngineStats | undefined;
  /** Generation requests that are not over. */
  open: () => number;
  connections: Connections;
  uploads: Uploads;
  delay: EventLoopDelay;
  /** Lines of the log that nothing took. */
  lostLines: () => number;
  version: string;
}

/** Everything /metrics shows. Counters of the engine are read when they are asked for. */
export class Metrics {
  readonly registry = new Registry();
  readonly timeToFirstToken: Histogram;
  readonly interTokenLatency: Histogram;
  readonly timePerOutputToken: Histogram;
  readonly e2eLatency: Histogram;
  readonly queueTime: Histogram;
  readonly prefillTime: Histogram;
  readonly decodeTime: Histogram;
  readonly inferenceTime: Histogram;
  readonly blockLatency: Histogram;
  readonly timeToFirstBlock: Histogram;
  readonly tokensPerForward: Histogram;
  readonly promptTokens: Histogram;
  readonly generationTokens: Histogram;
  readonly paramsN: Histogram;
  readonly paramsMaxTokens: Histogram;
  readonly #success: Counter<"finished_reason">;
  readonly #http: Counter<"route" | "method" | "status">;

  constructor({ modelName, stats, open, connections, uploads, delay, lostLines, version }: MetricsOptions) {
    const { registry } = this;
    registry.setDefaultLabels({ model_name: modelName });
    const registers = [registry];
    const histogram = (name: string, help: string, buckets: number[]) =>
      new Histogram({ name: PREFIX + name, help, buckets, registers });
    const gauge = (name: string, help: string, read: (stats: EngineStats | undefined) => number) =>
      new Gauge({
        name: PREFIX + name,
        help,
        registers,
        collect() {
          this.set(read(stats()));
        },
      });
    const counter = (name: string, help: string, read: (stats: EngineStats) => number) =>
      new Counter({
        name: PREFIX + name,
        help,
        registers,
        collect() {
          const now = stats();
          this.reset();
          this.inc(now ? read(now) : 0);
        },
      });

    gauge("num_requests_running", "choices that are being generated", (now) => now?.running ?? 0);
    gauge("num_requests_waiting", "choices that wait for a place in the batch", (now) => now?.waiting ?? 0);
    gauge("num_http_requests_open", "generation requests that are not over", open);
    gauge("num_connections", "connections that are open", () => connections.count);
    gauge("upload_bytes", "bytes of bodies that count against the limit", () => uploads.held);
    gauge("kv_cache_usage_perc", "share of the key/value pages in use, 1 is all", (now) => now?.cacheUsage ?? 0);
    gauge("engine_up", "1 while the engine can take requests", (now) => {
      return now?.state === "ready" && now.trouble === undefined ? 1 : 0;
    });
    gauge("engine_memory_bytes", "bytes of live tensors in the engine", (now) => now?.memory.bytes ?? 0);
    gauge("event_loop_delay_p99_seconds", "99th percentile since the last scrape", () => delay.takeP99());
    gauge("process_resident_memory_bytes", "of the whole process", () => process.memoryUsage.rss());

    counter("scores_total", "texts that were scored", (now) => now.counters.scores);
    counter("prompt_tokens_total", "prompt tokens processed", (now) => now.counters.promptTokens);
    counter("generation_tokens_total", "tokens generated", (now) => now.counters.completionTokens);
    counter("prefix_cache_queries_total", "prompt tokens looked up", (now) => now.counters.prefixCacheQueries);
    counter(
      "prefix_cache_hits_total",
      "prompt tokens found in the prefix cache",
      (now) => now.counters.prefixCacheHits,
    );
    counter("num_preemptions_total", "choices put back because memory was full", (now) => now.counters.preemptions);
    counter("denoising_steps_total", "denoising passes of single blocks", (now) => now.counters.denoisingSteps);
    counter("committed_tokens_total", "tokens committed by denoising passes", (now) => now.counters.committedTokens);
    counter("remasked_tokens_total", "committed tokens masked again", (now) => now.counters.remaskedTokens);
    counter("blocks_total", "blocks finished", (now) => now.counters.blocks);
    counter("forwards_total", "passes of the model over a batch", (now) => now.counters.forwards);
    counter("forward_tokens_total", "rows of tokens in those passes", (now) => now.counters.forwardTokens);
    counter("graph_captures_total", "passes recorded as CUDA graphs", (now) => now.counters.graphCaptures);
    counter("graph_replays_total", "passes that replayed one", (now) => now.counters.graphReplays);
    counter(
      "engine_restarts_total",
      "times the engine's worker was started again",
      (now) => now.counters.workerRestarts,
    );
    counter("engine_model_seconds_total", "time in the model's passes", (now) => now.seconds.model);
    counter("engine_other_seconds_total", "time of the engine around them", (now) => now.seconds.other);
    counter("engine_idle_seconds_total", "time with nothing to generate", (now) => now.seconds.idle);

    new Counter({
      name: `${PREFIX}admission_rejections_total`,
      help: "requests refused with 503, by limit",
      labelNames: ["reason"],
      registers,
      collect() {
        this.reset();
        const { requests: queue_full = 0, tokens: queue_tokens_full = 0 } = stats()?.counters.rejected ?? {};
        const rejected = { queue_full, queue_tokens_full, uploads_full: uploads.rejected };
        for (const [reason, count] of Object.entries(rejected)) this.inc({ reason }, count);
      },
    });
    new Counter({
      name: `${PREFIX}log_lines_lost_total`,
      help: "lines of the log that standard output did not take",
      registers,
      collect() {
        this.reset();
        this.inc(lostLines());
      },
    });
    new Counter({
      name: `${PREFIX}connections_dropped_total`,
      help: "connections that gave way to new ones, were refused, or whose client did not read",
      labelNames: ["reason"],
      registers,
      collect() {
        this.reset();
        for (const [reason, count] of Object.entries(connections.dropped)) this.inc({ reason }, count);
      },
    });
    new Gauge({
      name: `${PREFIX}build_info`,
      help: "always 1; the label is the version",
      labelNames: ["version"],
      registers,
    }).set({ version }, 1);

    this.#success = new Counter({
      name: `${PREFIX}request_success_total`,
      help: "choices that ended, by how",
      labelNames: ["finished_reason"],
      registers,
    });
    for (const reason of ["stop", "length", "abort", "error"]) this.#success.inc({ finished_reason: reason }, 0);
    this.#http = new Counter({
      name: `${PREFIX}http_responses_total`,
      help: "responses by route, method and status",
      labelNames: ["route", "method", "status"],
      registers,
    });

    this.timeToFirstToken = histogram("time_to_first_token_seconds", "from arrival to the first text", FIRST);
    this.timeToFirstBlock = histogram("time_to_first_block_seconds", "from arrival to the first whole block", FIRST);
    this.interTokenLatency = histogram("inter_token_latency_seconds", "between two pieces of a stream", BETWEEN);
    this.timePerOutputToken = histogram(
      "request_time_per_output_token_seconds",
      "time after the first text per token after the first",
      BETWEEN,
    );
    this.e2eLatency = histogram("e2e_request_latency_seconds", "from arrival to the end", LATENCY);
    this.queueTime = histogram("request_queue_time_seconds", "waiting", LATENCY);
    this.prefillTime = histogram("request_prefill_time_seconds", "from the start to the first text", LATENCY);
    this.decodeTime = histogram("request_decode_time_seconds", "from the first text to the end", LATENCY);
    this.inferenceTime = histogram("request_inference_time_seconds", "from the start to the end", LATENCY);
    this.blockLatency = histogram("block_latency_seconds", "between the ends of two blocks of a choice", BETWEEN);
    this.tokensPerForward = histogram("tokens_per_forward", "of a choice: its tokens by its passes", PER_FORWARD);
    this.promptTokens = histogram("request_prompt_tokens", "prompt tokens of a choice", TOKENS);
    this.generationTokens = histogram("request_generation_tokens", "tokens generated for a choice", TOKENS);
    this.paramsN = histogram("request_params_n", "n as asked for", [1, 2, 5, 10, 20]);
    this.paramsMaxTokens = histogram("request_params_max_tokens", "max_tokens as asked for", TOKENS);
  }

  finished(reason: DoneEvent["finishReason"]): void {
    this.#success.inc({ finished_reason: reason });
  }

  response(route: string, method: string, status: number): void {
    this.#http.inc({ route, method, status: String(status) });
  }

  text(): Promise<string> {
    return this.registry.metrics();
  }
}

/** Milliseconds between two looks; what the histogram measures includes them. */
const RESOLUTION = 10;

/** Measures the delay of timers: how long the server's thread is busy without a break. */
export class EventLoopDelay {
  readonly #histogram: IntervalHistogram = monitorEventLoopDelay({ resolution: RESOLUTION });

  constructor() {
    this.#histogram.enable();
  }

  /** The 99th percentile since the last call, in seconds; resets the histogram. */
  takeP99(): number {
    const nanoseconds = this.#histogram.percentile(99) || 0;
    this.#histogram.reset();
    return Math.max(0, nanoseconds / 1e9 - RESOLUTION / 1000);
  }

  close(): void {
    this.#histogram.disable();
  }
}
