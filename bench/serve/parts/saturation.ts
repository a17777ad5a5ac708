import { Engine } from "stable-diffcoder/engine";
import { type BenchRow, pairedRow, printTable } from "../../shared/harness.js";
import { engineSender } from "../engine-client.js";
import { closedLoop } from "../load.js";
import type { Weights } from "../options.js";
import { CACHE_TOKENS, commitOptions, engineOptions, loadCommit, type Setting } from "../setting.js";
import { tokensPerForward } from "../timeline.js";
import { Workload } from "../workload.js";

/** So many requests at once, with these weights. */
interface Level {
  running: number;
  weights: Weights;
}

/** What a level showed in one round. */
interface Sample {
  tokensPerSecond: number;
  tokensPerForward: number;
  msPerForward: number;
  rowsPerForward: number;
  /** The engine between passes (scheduling, events, messages), as a share of the passes. */
  aroundShare: number;
}

/** More and more requests at once in one engine, against the peer, which has but one. */
export async function saturation(setting: Setting): Promise<BenchRow[]> {
  const { options, model, peer, scale, progress } = setting;
  const weights = options.weights;
  const levels: Level[] = scale.levels.map((running) => ({ running, weights }));
  const widest = Math.max(...scale.levels);
  // What smaller weights do when there is work enough.
  if (options.device === "cpu" && weights !== "int8") levels.push({ running: widest, weights: "int8" });
  const rounds = options.rounds ?? (options.quick ? 1 : 2);
  const engines = new Map<Weights, Engine>();
  const samples = new Map(levels.map((level) => [level, [] as Sample[]]));
  const peerPace: number[] = [];
  try {
    for (const each of new Set(levels.map((level) => level.weights))) {
      const engine = await Engine.create({ ...engineOptions(setting, each), cacheTokens: CACHE_TOKENS });
      engines.set(each, engine);
    }
    for (let round = 0; round < rounds; round++) {
      const turns = round % 2 === 0 ? levels : [...levels].reverse();
      const paces: number[] = [];
      for (const [i, level] of turns.entries()) {
        // The peer at the beginning, in the middle and at the end of a round.
        if (i === 0 || i === turns.length >> 1) paces.push(await peerSeconds(setting, round * 10 + i));
        progress(`saturation, ${model.name}, ${level.weights}, ${level.running} requests`);
        const engine = engines.get(level.weights) as Engine;
        samples.get(level)?.push(await measure(setting, engine, level.running, round));
      }
      paces.push(await peerSeconds(setting, round * 10 + 9));
      peerPace.push(paces.reduce((sum, each) => sum + each, 0) / paces.length);
    }
  } finally {
    for (const engine of engines.values()) await engine.close();
  }
  const rows = levels.map((level) => rowOf(setting, level, samples.get(level) ?? [], peerPace));
  printLevels(rows);
  return rows;

  async function peerSeconds({ scale: { lengths, window } }: Setting, seed: number): Promise<number> {
    const workload = new Workload(model.tokenizer, lengths, 1000 + seed);
    const requests = Array.from({ length: 64 }, () => workload.next());
    return (await peer.serve(requests, window, loadCommit(setting))).tokensPerSecond;
  }
}

async function measure(setting: Setting, engine: Engine, running: number, round: number): Promise<Sample> {
  const { model, scale } = setting;
  // Requests of its own for each: none finds a prefix of another's.
  const workload = new Workload(model.tokenizer, scale.lengths, 100 * round + running);
  let before = engine.stats();
  const { timelines, tokensPerSecond } = await closedLoop({
    concurrency: running,
    next: workload.prepared(setting.options.quick ? 16 : 256),
    send: engineSender(engine, commitOptions(loadCommit(setting))),
    seconds: scale.window,
    tokens: setting.options.quick ? 0 : running * workload.meanOutput(),
    onWindow: (edge) => {
      if (edge === "open") before = engine.stats();
    },
  });
  const failed = timelines.find(({ error }) => error !== undefined);
  if (failed) throw new Error(`a request failed: ${failed.error}`);
  const after = engine.stats();
  const forwards = after.counters.forwards - before.counters.forwards;
  const seconds = after.seconds.model - before.seconds.model;
  return {
    tokensPerSecond,
    tokensPerForward: tokensPerForward(timelines),
    msPerForward: (1000 * seconds) / forwards,
    rowsPerForward: (after.counters.forwardTokens - before.counters.forwardTokens) / forwards,
    aroundShare: (after.seconds.other - before.seconds.other) / seconds,
  };
}

function rowOf(
  { model, options, peerDtype }: Setting,
  { running, weights }: Level,
  samples: readonly Sample[],
  peer: number[],
): BenchRow {
  const mean = (of: (sample: Sample) => number) => samples.reduce((sum, each) => sum + of(each), 0) / samples.length;
  const name = `${model.name}, ${running} running, ${weights}`;
  return pairedRow(
    name,
    "tokens/s",
    samples.map(({ tokensPerSecond }) => tokensPerSecond),
    peer,
    {
      part: "saturation",
      model: model.name,
      running,
      weights,
      peerDtype,
      commit: options.commit,
      tokensPerForward: mean((sample) => sample.tokensPerForward),
      msPerForward: mean((sample) => sample.msPerForward),
      rowsPerForward: mean((sample) => sample.rowsPerForward),
      aroundShare: mean((sample) => sample.aroundShare),
    },
  );
}

function printLevels(rows: readonly BenchRow[]): void {
  const percent = (share: unknown) => `${(100 * Number(share)).toFixed(1)} %`;
  const fixed = (value: unknown) => (Number.isFinite(Number(value)) ? Number(value).toFixed(1) : "-");
  printTable([
    ["", "ms a pass", "rows a pass", "tokens a pass of a request", "around the passes"],
    ...rows.map(({ name, msPerForward, rowsPerForward, tokensPerForward: tokens, aroundShare }) => [
      name,
      ...[msPerForward, rowsPerForward, tokens].map(fixed),
      percent(aroundShare),
    ]),
  ]);
}
