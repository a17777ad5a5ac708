import { setMaxListeners } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { Philox } from "stable-diffcoder";
import { type Timeline, tokensWithin, type Window } from "./timeline.js";
import { poissonArrivals, type WorkItem } from "./workload.js";

/**
 * Sends one request and notes in the timeline what comes of it, while it comes. Resolves when it is over, also when it failed
 * or the signal ended it.
 */
export type Send = (item: WorkItem, timeline: Timeline, signal: AbortSignal) => Promise<void>;

export interface ClosedLoopOptions {
  /** Requests that are always under way. */
  concurrency: number;
  next: () => WorkItem;
  send: Send;
  /** The window lasts at least so long, and until `tokens` came, but no longer than three times as long. */
  seconds: number;
  tokens: number;
  /** Called as the window opens and closes. */
  onWindow?: (edge: "open" | "close") => Promise<void> | void;
}

export interface LoadResult {
  timelines: Timeline[];
  window: Window;
  tokensPerSecond: number;
  /** Tokens a second that the arrivals asked for; of an open loop. */
  offered?: number;
}

const newTimeline = (item: WorkItem): Timeline => ({
  promptTokens: item.ids.length,
  sent: performance.now(),
  marks: [],
});

/**
 * So many clients, each of which sends its next request when the last is done. The first ones are cut at random, so that from
 * the start they end at different times; the window opens when all have begun to get tokens. What is unfinished as
 * it closes is given up.
 */
export async function closedLoop(options: ClosedLoopOptions): Promise<LoadResult> {
  const { concurrency, next, send, seconds, tokens } = options;
  const controller = new AbortController();
  setMaxListeners(0, controller.signal); // every request listens
  const timelines: Timeline[] = [];
  const random = new Philox(concurrency);
  const firsts: Timeline[] = [];
  const client = async (cut: number) => {
    for (let first = true; !controller.signal.aborted; first = false) {
      const item = next();
      if (first) item.tokens = Math.max(1, Math.ceil(item.tokens * cut));
      const timeline = newTimeline(item);
      timelines.push(timeline);
      if (first) firsts.push(timeline);
      await send(item, timeline, controller.signal);
      if (timeline.error !== undefined) await sleep(100); // no storm of failures
    }
  };
  const clients = Array.from({ length: concurrency }, () => client(random.uniform()));
  const began = performance.now();
  const hasBegun = ({ marks, ended }: Timeline) => marks.length > 0 || ended !== undefined;
  while (!firsts.every((each) => hasBegun(each) || each.error !== undefined)) {
    if (performance.now() - began > 120_000) throw new Error("no tokens within two minutes");
    await sleep(5);
  }
  await options.onWindow?.("open");
  const window: Window = { from: performance.now(), to: Number.POSITIVE_INFINITY };
  for (;;) {
    await sleep(10);
    const elapsed = (performance.now() - window.from) / 1000;
    if (elapsed >= 3 * seconds || (elapsed >= seconds && tokensWithin(timelines, window) >= tokens)) break;
  }
  window.to = performance.now();
  await options.onWindow?.("close");
  controller.abort();
  await Promise.all(clients);
  return { timelines, window, tokensPerSecond: tokensWithin(timelines, window) / ((window.to - window.from) / 1000) };
}

export interface OpenLoopOptions {
  /** Requests a second. */
  rate: number;
  next: () => WorkItem;
  send: Send;
  seconds: number;
  seed: number;
  onWindow?: ClosedLoopOptions["onWindow"];
}

/** Requests arrive at random (Poisson), however many are still open; all that arrived are waited for. */
export async function openLoop({ rate, next, send, seconds, seed, onWindow }: OpenLoopOptions): Promise<LoadResult> {
  const timelines: Timeline[] = [];
  const running: Promise<void>[] = [];
  const { signal } = new AbortController();
  setMaxListeners(0, signal);
  const arrivals = poissonArrivals(rate, seconds, new Philox(seed));
  const items = arrivals.map(next);
  await onWindow?.("open");
  const from = performance.now();
  for (const [i, arrival] of arrivals.entries()) {
    const wait = from + arrival * 1000 - performance.now();
    if (wait > 0) await sleep(wait);
    const timeline = newTimeline(items[i]);
    timelines.push(timeline);
    running.push(send(items[i], timeline, signal));
  }
  await Promise.all(running);
  const window = { from, to: performance.now() };
  await onWindow?.("close");
  const tokensPerSecond = tokensWithin(timelines, window) / ((window.to - from) / 1000);
  const offered = items.reduce((sum, { tokens }) => sum + tokens, 0) / seconds;
  return { timelines, window, tokensPerSecond, offered };
}
