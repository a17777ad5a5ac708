import { Engine, type GenerateOptions } from "stable-diffcoder/engine";
import { type BenchRow, pairedRow, printTable } from "../../shared/harness.js";
import { WEIGHTS, type Weights } from "../options.js";
import type { Commit } from "../peer.js";
import { commitOptions, describeCommit, engineOptions, type Setting } from "../setting.js";

/** One way to decode, on both sides. */
interface Decoding {
  name: string;
  commit?: Commit;
}

/** What one text took. */
interface Text {
  ids: number[];
  seconds: number;
  forwards: number;
  /** Denoising passes among them. */
  denoising: number;
}

type Decode = (decoding: Decoding) => Promise<Text>;

/** Two texts of float32 that part before so many tokens are no rounding. */
const LEAST_PREFIX = 8;

/** One request at a time: each of our kinds of weights against the peer, in turns. */
export async function batch1(setting: Setting): Promise<BenchRow[]> {
  const { options, model, peer, peerDtype, prompt, threshold, scale, progress } = setting;
  const { blockSize, device } = options;
  const { tokens } = scale;
  const decodings: Decoding[] = [
    ...[blockSize, blockSize >> 1].map((steps) => ({ name: describeCommit({ steps }), commit: { steps } })),
    { name: describeCommit({ threshold }), commit: { threshold } },
    { name: "autoregressive" },
  ];
  const weights = WEIGHTS.filter((each) => device === "cpu" || each !== "int8");
  const engines = new Map<Weights, Engine>();
  try {
    for (const each of weights) {
      // The prompt is computed anew each time, as the peer does.
      const engine = await Engine.create({ ...engineOptions(setting, each), prefixCache: false, cacheTokens: 4096 });
      engines.set(each, engine);
    }
    const ours = new Map([...engines].map(([each, engine]) => [each, engineDecoder(engine, prompt, tokens)]));
    const theirs: Decode = ({ commit }) =>
      commit ? peer.blocks(prompt, tokens, commit) : peer.autoregressive(prompt, tokens);
    const rows: BenchRow[] = [];
    for (const decoding of decodings) {
      await agree(model.name, decoding, theirs, ours, tokens);
      progress(`batch 1, ${model.name}, ${decoding.name}`);
      rows.push(...(await measure(setting, decoding, theirs, ours)).map((row) => ({ ...row, peerDtype })));
    }
    printPasses(rows, tokens);
    return rows;
  } finally {
    for (const engine of engines.values()) await engine.close();
  }
}

function engineDecoder(engine: Engine, prompt: number[], maxTokens: number): Decode {
  return async ({ commit }) => {
    const how: GenerateOptions = commit ? commitOptions(commit) : { mode: "autoregressive" };
    const began = performance.now();
    const { ids, usage } = await engine.complete(prompt, { ...how, maxTokens, ignoreEos: true });
    const seconds = (performance.now() - began) / 1000;
    return { ids, seconds, forwards: usage.forwards, denoising: usage.denoisingSteps };
  };
}

/** Both sides must write the same in float32 before it means anything who is faster. */
async function agree(
  model: string,
  decoding: Decoding,
  theirs: Decode,
  ours: ReadonlyMap<Weights, Decode>,
  tokens: number,
): Promise<void> {
  const reference = (await theirs(decoding)).ids;
  const prefixes: string[] = [];
  for (const [weights, decode] of ours) {
    const common = commonPrefix((await decode(decoding)).ids, reference);
    prefixes.push(`${weights} ${common}`);
    if (weights === "float32" && common < Math.min(LEAST_PREFIX, tokens)) {
      throw new Error(`${model}, ${decoding.name}: the two sides part after ${common} tokens in float32`);
    }
  }
  console.log(`${model}, ${decoding.name}: of ${tokens} tokens as the peer's: ${prefixes.join(", ")}`);
}

export function commonPrefix(a: readonly number[], b: readonly number[]): number {
  const at = a.findIndex((id, i) => id !== b[i]);
  return at < 0 ? Math.min(a.length, b.length) : at;
}

async function measure(
  { scale, model }: Setting,
  decoding: Decoding,
  theirs: Decode,
  ours: ReadonlyMap<Weights, Decode>,
): Promise<BenchRow[]> {
  const { tokens, rounds } = scale;
  const peerPace: number[] = [];
  const pace = new Map([...ours.keys()].map((weights) => [weights, [] as number[]]));
  const last = new Map<Weights | "peer", Text>();
  const turns: [Weights | "peer", Decode][] = [["peer", theirs], ...ours];
  for (let round = -1; round < rounds; round++) {
    for (const [who, decode] of round % 2 === 0 ? turns : [...turns].reverse()) {
      const text = await decode(decoding);
      last.set(who, text);
      if (round < 0) continue; // warms up
      (who === "peer" ? peerPace : (pace.get(who) as number[])).push(tokens / text.seconds);
    }
  }
  const textOf = (who: Weights | "peer") => last.get(who) as Text;
  const { forwards: peerForwards, denoising: peerPasses } = textOf("peer");
  return [...pace].map(([weights, values]) => {
    const { forwards, denoising } = textOf(weights);
    const row = pairedRow(`${model.name}, ${decoding.name}, ${weights}`, "tokens/s", values, peerPace, {
      part: "batch1",
      model: model.name,
      decoding: decoding.name,
      weights,
      tokens,
      forwards,
      peerForwards,
      denoisingPasses: denoising,
      peerDenoisingPasses: peerPasses,
    });
    // Rounded weights write another text, whose threshold may be passed more or less often.
    return { ...row, ratioAtEqualPasses: decoding.commit ? (row.ratio * denoising) / peerPasses : row.ratio };
  });
}

function printPasses(rows: readonly BenchRow[], tokens: number): void {
  printTable([
    [
      `passes for ${tokens} tokens`,
      "ours",
      "denoising",
      "peer's",
      "denoising",
      "ratio at equally many denoising passes",
    ],
    ...rows.map((row) => [
      row.name,
      ...[row.forwards, row.denoisingPasses, row.peerForwards, row.peerDenoisingPasses].map(String),
      `${Number(row.ratioAtEqualPasses).toFixed(2)}x`,
    ]),
  ]);
}
