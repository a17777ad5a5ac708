import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { EventSplitter, noteEvent } from "../../bench/serve/http-client.js";
import { closedLoop, openLoop, type Send } from "../../bench/serve/load.js";
import { serveBenchOptions } from "../../bench/serve/options.js";
import { commonPrefix } from "../../bench/serve/parts/batch1.js";
import { parseMetrics } from "../../bench/serve/server-process.js";
import { searchThreshold } from "../../bench/serve/threshold.js";
import { blockEnds, latencies, type Timeline, tokensPerForward, tokensWithin } from "../../bench/serve/timeline.js";
import { CHAT_LENGTHS, drawLength, poissonArrivals, scaled, Workload } from "../../bench/serve/workload.js";
import { median, pairedRow } from "../../bench/shared/harness.js";
import { Tokenizer } from "../../lib/tokenizer/index.js";
import { Philox } from "../../lib/torch/index.js";
import { TOKENIZER } from "../cli/support.js";
import { pretendBuilt, put, runScript, scratchCheckout } from "../setup/scratch.js";

const mean = (values: readonly number[]) => values.reduce((sum, each) => sum + each, 0) / values.length;

describe("requests", () => {
  it("have log-normal lengths, cut where the shape says", () => {
    const open = { ...CHAT_LENGTHS, least: 1, most: 1e9 };
    const lengths = Array.from({ length: 20_000 }, (_, i) => drawLength(open.output, open, new Philox(3, i)));
    expect(median(lengths) / open.output.median).toBeCloseTo(1, 1);
    expect(mean(lengths) / (open.output.median * Math.exp(open.output.sigma ** 2 / 2))).toBeCloseTo(1, 1);
    const logs = lengths.map(Math.log);
    const deviation = Math.sqrt(mean(logs.map((each) => (each - mean(logs)) ** 2)));
    expect(deviation).toBeCloseTo(open.output.sigma, 1);
    const quarter = scaled(CHAT_LENGTHS, 1 / 4);
    const cut = Array.from({ length: 2000 }, (_, i) => drawLength(quarter.output, quarter, new Philox(3, i)));
    expect([Math.min(...cut) >= 4, Math.max(...cut)]).toEqual([true, 192]);
    expect(median(cut) / median(lengths)).toBeCloseTo(1 / 4, 1);
  });

  it("are code that is encoded as it is sent, the same for the same seed, and hold no special token", () => {
    const tokenizer = Tokenizer.fromPretrained(TOKENIZER);
    const make = (seed: number) => new Workload(tokenizer, CHAT_LENGTHS, seed);
    const [first, again, other] = [make(1), make(1), make(2)].map((each) => [each.next(), each.next()]);
    expect(again).toEqual(first);
    expect(other[0].text).not.toBe(first[0].text);
    const workload = make(9);
    const items = Array.from({ length: 60 }, () => workload.next());
    for (const { text, ids, tokens } of items) {
      expect(tokenizer.encode(text, { addSpecialTokens: false })).toEqual(ids);
      expect(Math.min(...ids)).toBeGreaterThan(7);
      expect(tokens).toBeGreaterThanOrEqual(CHAT_LENGTHS.least);
    }
    expect(make(9).meanOutput(60)).toBeCloseTo(mean(items.map(({ tokens }) => tokens)));
  });

  it("arrive at the rate asked for, with the gaps of a Poisson process", () => {
    const arrivals = poissonArrivals(50, 200, new Philox(5));
    expect(arrivals.length / (50 * 200)).toBeCloseTo(1, 1);
    const gaps = arrivals.slice(1).map((at, i) => at - arrivals[i]);
    const variance = mean(gaps.map((gap) => (gap - mean(gaps)) ** 2));
    expect(Math.sqrt(variance) / mean(gaps)).toBeCloseTo(1, 1);
    expect(Math.max(...arrivals)).toBeLessThan(200);
  });
});

describe("what a client sees", () => {
  const timeline = (promptTokens: number, marks: [number, number][], ended?: number): Timeline => ({
    promptTokens,
    sent: 0,
    marks: marks.map(([at, tokens]) => ({ at, tokens })),
    ...(ended !== undefined && { ended }),
  });

  it("is in blocks that are aligned to the prompt's first token", () => {
    const marks: [number, number][] = [
      [10, 1],
      [20, 3],
      [30, 7],
      [40, 12],
    ];
    expect(blockEnds(timeline(5, marks), 4)).toEqual([20, 30, 40]); // 3, 7, 11 tokens; the 12th begins a block
    expect(blockEnds(timeline(5, marks, 40), 4)).toEqual([20, 30, 40, 40]); // cut by the end
    expect(blockEnds(timeline(8, marks, 40), 4)).toEqual([30, 40, 40]);
    expect(blockEnds(timeline(8, []), 4)).toEqual([]);
  });

  it("counts by events within the window, also of requests that it cuts, and not of failed ones", () => {
    const one = timeline(
      8,
      [
        [10, 4],
        [30, 8],
        [60, 12],
      ],
      60,
    );
    const two = timeline(8, [[25, 4]]);
    const failed = { ...timeline(8, [[26, 4]]), error: "HTTP 503" };
    const window = { from: 20, to: 50 };
    expect(latencies([one, two, failed], 4, window)).toEqual({
      firstToken: [25],
      firstBlock: [25],
      block: [20],
      whole: [],
    });
    expect(tokensWithin([one, two], window)).toBe(8);
    expect(tokensPerForward([{ ...one, forwards: 6 }, two])).toBe(2);
  });

  it("comes as events, however the stream is cut", () => {
    const chunk = (ids: number[]) => `data: ${JSON.stringify({ choices: [{ token_ids: ids }] })}\n\n`;
    const usage = { choices: [], usage: { prompt_tokens: 8, completion_tokens: 3 }, dllm: { forwards: 2 } };
    const stream = `: keep-alive\n\n${chunk([1, 2])}${chunk([])}${chunk([3])}data: ${JSON.stringify(usage)}\n\ndata: [DONE]\n\n`;
    for (const size of [1, 7, 1000]) {
      const splitter = new EventSplitter();
      const seen = timeline(8, []);
      let over = false;
      for (let at = 0; at < stream.length; at += size) {
        for (const data of splitter.push(stream.slice(at, at + size))) over = noteEvent(seen, data, 5);
      }
      expect([over, seen.marks.map(({ tokens }) => tokens), seen.forwards, seen.error]).toEqual([
        true,
        [2, 3],
        2,
        undefined,
      ]);
    }
    const short = timeline(8, [[1, 2]]);
    noteEvent(short, JSON.stringify(usage), 5);
    expect(short.error).toBe("2 of 3 tokens came");
    noteEvent(short, JSON.stringify({ error: { code: "engine_failed" } }), 5);
    expect(short.error).toBe("2 of 3 tokens came"); // the first counts
  });
});

describe("loads", () => {
  const item = () => ({ text: "", ids: [9, 9, 9, 9], tokens: 40 });
  let open = 0;
  let most = 0;
  /** A token every two milliseconds. */
  const send: Send = async ({ tokens }, timeline, signal) => {
    most = Math.max(most, ++open);
    for (let made = 1; made <= tokens && !signal.aborted; made++) {
      await sleep(2);
      timeline.marks.push({ at: performance.now(), tokens: made });
      if (made === tokens) timeline.ended = performance.now();
    }
    open--;
  };

  it("closed: always so many under way, none left when it is over", async () => {
    [open, most] = [0, 0];
    const edges: string[] = [];
    const { timelines, window, tokensPerSecond } = await closedLoop({
      concurrency: 5,
      next: item,
      send,
      seconds: 0.4,
      tokens: 0,
      onWindow: (edge) => void edges.push(`${edge} ${open}`),
    });
    expect([open, most, edges]).toEqual([0, 5, ["open 5", "close 5"]]);
    expect(timelines.length).toBeGreaterThan(5);
    const seconds = (window.to - window.from) / 1000;
    expect(tokensPerSecond).toBeCloseTo(tokensWithin(timelines, window) / seconds);
    expect(tokensPerSecond).toBeGreaterThan(200);
    expect(tokensPerSecond).toBeLessThanOrEqual(5 * 500);
  });

  it("open: all that arrive are answered, whether or not others are still under way", async () => {
    [open, most] = [0, 0];
    const { timelines, offered } = await openLoop({ rate: 60, next: item, send, seconds: 0.5, seed: 4 });
    expect(timelines.length).toBe(poissonArrivals(60, 0.5, new Philox(4)).length);
    expect(timelines.every(({ ended }) => ended !== undefined)).toBe(true);
    expect(offered).toBeCloseTo((timelines.length * 40) / 0.5);
    expect(most).toBeGreaterThan(1);
  });
});

describe("the threshold", () => {
  it("is the quantile that commits about so many tokens a pass", async () => {
    const confidences = Array.from({ length: 101 }, (_, i) => i / 1000);
    // Of four tokens those above the value, one at least.
    const tokensPerPass = async (value: number) => 1 + 3 * (1 - value / 0.1);
    const { value, tokensPerPass: reached } = await searchThreshold(confidences, 2, tokensPerPass);
    expect(reached).toBeCloseTo(2, 0);
    expect(Math.abs(value - 0.0667)).toBeLessThan(0.01);
    // Where the model jumps, the nearer side.
    const jump = await searchThreshold(confidences, 2, async (at) => (at < 0.04 ? 3.5 : 1.2));
    expect(jump.tokensPerPass).toBe(1.2);
  });
});

describe("options and rows", () => {
  it("name parts and models, and say what is allowed", () => {
    const options = serveBenchOptions(["http", "--preset", "tiny,125m", "--weights", "int8", "--rounds", "4"], {});
    expect(options).toMatchObject({
      parts: ["http"],
      presets: ["tiny", "125m"],
      weights: "int8",
      rounds: 4,
      threads: 2,
    });
    expect(serveBenchOptions(["--quick"], { OMP_NUM_THREADS: "3" })).toMatchObject({ presets: ["tiny"], threads: 3 });
    expect(serveBenchOptions([], {}).parts).toEqual(["batch1", "saturation", "http"]);
    expect(() => serveBenchOptions(["batch2"], {})).toThrow("a part is one of batch1, saturation, http");
    expect(() => serveBenchOptions(["--preset", "huge"], {})).toThrow(/--preset is one of tiny, 125m/);
    expect(() => serveBenchOptions(["--model", "x", "--preset", "tiny"], {})).toThrow("exclude each other");
    expect(() => serveBenchOptions(["--weights", "int8", "--device", "cuda"], {})).toThrow("for the CPU");
    expect(() => serveBenchOptions(["--treads", "2"], {})).toThrow("--treads");
  });

  it("compare by rounds", () => {
    expect(pairedRow("a", "tokens/s", [20, 30, 10], [10, 10, 10])).toMatchObject({ ours: 20, peer: 10, ratio: 2 });
    expect(pairedRow("a", "ms", [20, 20], [10, 10], { better: "less", more: 1 })).toMatchObject({
      ratio: 0.5,
      more: 1,
    });
    expect([commonPrefix([1, 2, 3], [1, 2, 4]), commonPrefix([1, 2], [1, 2, 4]), commonPrefix([7], [1])]).toEqual([
      2, 2, 0,
    ]);
  });

  it("read a page of metrics", () => {
    const page = `# HELP diffcoder:forwards_total x\ndiffcoder:forwards_total{model_name="a b"} 12\nx{l="1"} 2\nx{l="2"} 1.5e1\n`;
    expect([...parseMetrics(page)]).toEqual([
      ["diffcoder:forwards_total", 12],
      ["x", 17],
    ]);
  });
});

describe("npm run bench -- NAME PART", () => {
  it("runs parts of a benchmark that has them", () => {
    const root = scratchCheckout();
    const env = pretendBuilt(root);
    const words = 'process.argv.slice(2).filter((arg) => !arg.startsWith("-")).join(" ")';
    for (const name of ["alpha", "beta"])
      put(join(root, "bench", `${name}.ts`), `console.log("${name}:", ${words});\n`);
    put(join(root, "bench", "beta", "parts", "fast.ts"), "export {};\n");
    const run = (...args: string[]) => runScript(root, "scripts/bench.mjs", args, env);
    expect(run("beta", "fast", "--rounds=3").out).toBe("beta: fast\n");
    expect(run("alpha", "beta", "fast").out).toMatch(/alpha: ?\n[\s\S]*beta: fast\n/);
    const wrong = run("alpha", "fast");
    expect([wrong.status, wrong.err]).toEqual([
      2,
      expect.stringMatching(/no benchmark named fast[\s\S]*beta \(fast\)/),
    ]);
  });
});
