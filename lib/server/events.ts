import type { EngineEvent, Reservation } from "../engine/index.js";
import { runningEngine, type ServerContext } from "./context.js";
import type { ChoiceMeter } from "./operations/meter.js";
import type { Job } from "./prepare.js";
import type { UsageSum } from "./protocol/response-format.js";

/** An event of the engine, and whose it is: the numbers of prompt and choice within the request. */
export interface Tagged {
  prompt: number;
  choice: number;
  event: EngineEvent;
}

/**
 * Gives the prompts to the engine, once the first event is asked for; their events come as they are, until all are done
 * or the signal says otherwise.
 *
 * @param options.streamSteps whether every pass is wanted
 * @param options.reservation the place of all of them in the engine's queue
 * @throws the signal's reason, or what the engine throws
 */
export async function* eventsOf(
  context: ServerContext,
  jobs: readonly Job[],
  { streamSteps, reservation, signal }: { streamSteps: boolean; reservation: Reservation; signal: AbortSignal },
): AsyncGenerator<Tagged> {
  const engine = runningEngine(context);
  const events = streamSteps ? "all" : "text"; // a pass that nobody asked for need not come through the threads
  let first = 0;
  const sources = jobs.map(({ prompt, options }, i) => {
    const from = first;
    first += options.n;
    const source =
      options.maxTokens === 0
        ? nothing(jobs[i], reservation)
        : engine.generate(prompt, { ...options, events }, { signal, reservation });
    return tagged(source, i, from, signal);
  });
  yield* merge(sources);
  signal.throwIfAborted();
}

/** Of a request that wants its prompt back and no more. */
async function* nothing({ promptTokens, options }: Job, reservation: Reservation): AsyncGenerator<EngineEvent> {
  reservation.forgo(options.n, options.n * promptTokens);
  for (let index = 0; index < options.n; index++) {
    yield { type: "start", index, promptTokens, cachedTokens: 0 };
    const usage = { promptTokens, cachedTokens: 0, completionTokens: 0, forwards: 0, denoisingSteps: 0 };
    yield { type: "done", index, finishReason: "length", usage, timings: { queue: 0, firstBlock: 0, total: 0 } };
  }
}

/** The events of one prompt, with the numbers of its choices in the request. They end with the signal, at once. */
async function* tagged(
  events: AsyncIterable<EngineEvent>,
  prompt: number,
  first: number,
  signal: AbortSignal,
): AsyncGenerator<Tagged> {
  const iterator = events[Symbol.asyncIterator]();
  // The engine hears of the signal, too; but one that hangs must not hold the request.
  const stop = () => void iterator.return?.();
  signal.addEventListener("abort", stop, { once: true });
  try {
    for (let step = await iterator.next(); !step.done; step = await iterator.next()) {
      yield { prompt, choice: first + step.value.index, event: step.value };
    }
  } finally {
    signal.removeEventListener("abort", stop);
    stop();
  }
}

/** Who keeps the books of a request. */
export interface Watchers {
  /** Of the request's scope. */
  signal: AbortSignal;
  meters: readonly ChoiceMeter[];
  usage: UsageSum;
}

/** Keeps the books while events pass. */
export async function* watched(
  events: AsyncIterable<Tagged>,
  { signal, meters, usage }: Watchers,
): AsyncGenerator<Tagged> {
  for await (const each of events) {
    const { prompt, choice, event } = each;
    // How it ended for a request that was given up is not a matter of the client's.
    if (event.type === "done") signal.throwIfAborted();
    meters[choice].see(event);
    if (event.type === "start") {
      usage.prompt(prompt, event.promptTokens, event.cachedTokens);
    } else if (event.type === "text") {
      usage.generated(choice, event.ids.length);
    } else if (event.type === "done") {
      usage.done(choice, event.usage);
    }
    yield each;
  }
}

/**
 * Several sources as one, each value as it comes; no source is asked for more before its last value was taken. When one
 * fails, or the reader has enough, the others are stopped.
 */
export async function* merge<T>(sources: readonly AsyncIterable<T>[]): AsyncGenerator<T, void, undefined> {
  if (sources.length === 1) {
    yield* sources[0];
    return;
  }
  type Step = { from: number; result: IteratorResult<T> } | { error: unknown };
  const iterators = sources.map((source) => source[Symbol.asyncIterator]());
  const running = new Set(iterators.keys());
  const ready: Step[] = [];
  let wake = () => {};
  const ask = (from: number) => {
    const put = (step: Step) => {
      ready.push(step);
      wake();
    };
    iterators[from].next().then(
      (result) => put({ from, result }),
      (error) => put({ error }),
    );
  };
  for (const from of running) ask(from);
  try {
    while (running.size > 0) {
      if (ready.length === 0) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      for (const step of ready.splice(0)) {
        if ("error" in step) throw step.error;
        if (step.result.done) running.delete(step.from);
        else {
          yield step.result.value;
          ask(step.from);
        }
      }
    }
  } finally {
    for (const from of running) void iterators[from].return?.()?.catch(() => {});
  }
}
