import { quantile } from "../shared/harness.js";

/** What a client saw of one request. Times are performance.now() in milliseconds. */
export interface Timeline {
  promptTokens: number;
  sent: number;
  /** When tokens came, and how many there were by then. */
  marks: { at: number; tokens: number }[];
  /** Undefined: it was given up. */
  ended?: number;
  error?: string;
  /** Passes of the model it took part in, once it has ended. */
  forwards?: number;
}

/** A stretch of time: what happened in it counts. */
export interface Window {
  from: number;
  to: number;
}

/** Milliseconds by what was measured. Each is an event of its own time, so that requests count that are cut by the window. */
export interface Latencies {
  firstToken: number[];
  firstBlock: number[];
  /** Between the ends of two blocks of a text. */
  block: number[];
  whole: number[];
}

/** When the blocks of a text were complete; blocks are aligned to the prompt's first token. The last may be cut. */
export function blockEnds({ promptTokens, marks, ended }: Timeline, blockSize: number): number[] {
  const ends: number[] = [];
  let wanted = blockSize - (promptTokens % blockSize);
  for (const { at, tokens } of marks) {
    for (; tokens >= wanted; wanted += blockSize) ends.push(at);
  }
  const last = marks.at(-1);
  if (ended !== undefined && last && last.tokens > wanted - blockSize) ends.push(last.at);
  return ends;
}

export function latencies(timelines: readonly Timeline[], blockSize: number, { from, to }: Window): Latencies {
  const result: Latencies = { firstToken: [], firstBlock: [], block: [], whole: [] };
  const add = (list: number[], at: number | undefined, since: number) => {
    if (at !== undefined && at >= from && at <= to) list.push(at - since);
  };
  for (const timeline of timelines) {
    if (timeline.error !== undefined) continue;
    const { sent, marks, ended } = timeline;
    const ends = blockEnds(timeline, blockSize);
    add(result.firstToken, marks[0]?.at, sent);
    add(result.firstBlock, ends[0], sent);
    for (let i = 1; i < ends.length; i++) add(result.block, ends[i], ends[i - 1]);
    add(result.whole, ended, sent);
  }
  return result;
}

/** Tokens that came within the window. */
export function tokensWithin(timelines: readonly Timeline[], { from, to }: Window): number {
  let sum = 0;
  for (const { marks } of timelines) {
    let before = 0;
    for (const { at, tokens } of marks) {
      if (at > from && at <= to) sum += tokens - before;
      before = tokens;
    }
  }
  return sum;
}

/** Of the requests that ended: their tokens by their passes. NaN where none did. */
export function tokensPerForward(timelines: readonly Timeline[]): number {
  const whole = timelines.filter(({ ended, forwards }) => ended !== undefined && forwards !== undefined);
  const sum = (of: (timeline: Timeline) => number) => whole.reduce((total, each) => total + of(each), 0);
  return sum(({ marks }) => marks.at(-1)?.tokens ?? 0) / sum(({ forwards = 0 }) => forwards);
}

/** "p50 / p99", and nothing where there is nothing. */
export function spread(values: readonly number[]): string {
  if (values.length === 0) return "-";
  return [0.5, 0.99].map((q) => short(quantile(values, q))).join(" / ");
}

function short(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(2);
}
