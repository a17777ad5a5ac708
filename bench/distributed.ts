// Two processes that train together over Gloo on the CPU: pace, scaling, bytes and the price of a checkpoint; ours against
// PyTorch's DistributedDataParallel and fully_shard with the decoder of peers/train_step.py (bench/train-step.ts shows that
// the two compute the same).
//   npm run bench -- distributed [--rounds N] [--quick] [--json FILE]
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { cpuHasBfloat16, StableDiffCoder, torch } from "stable-diffcoder";
import { NetworkNamespace } from "./distributed/namespace.js";
import { type Answer, Processes } from "./distributed/processes.js";
import { type BenchRow, benchOptions, median, pairedRow, report } from "./shared/harness.js";
import { findPythonWithTorch, pythonMissing } from "./shared/python-peer.js";

const SIZE = 2;
/** Of each process. */
const BATCH = 4;
const LENGTH = 256;
const MB = 1e6;
const MASK_ID = 5;
const rankScript = fileURLToPath(new URL("distributed/rank.ts", import.meta.url));
const peerScript = fileURLToPath(new URL("peers/distributed.py", import.meta.url));

/** One side: a process of its own and a pair that trains together. */
interface Side {
  alone: Processes;
  pair: Processes;
}

/** What is measured in turns: runs by name, on which processes, with how many threads. */
const CASES = {
  replicated: { on: "pair", run: "replicated", threads: 1, tokens: SIZE * BATCH * LENGTH },
  sharded: { on: "pair", run: "sharded", threads: 1, tokens: SIZE * BATCH * LENGTH },
  "one process, 1 thread": { on: "alone", run: "one", threads: 1, tokens: BATCH * LENGTH },
  "one process, 2 threads": { on: "alone", run: "two", threads: 2, tokens: SIZE * BATCH * LENGTH },
} as const;
type Case = keyof typeof CASES;
const CASE_NAMES = Object.keys(CASES) as Case[];

/** Tokens a second of each round. */
type Samples = Record<Case, number[]>;
const noSamples = () => Object.fromEntries(CASE_NAMES.map((name) => [name, []])) as unknown as Samples;

async function pace({ alone, pair }: Side, name: Case, count: number): Promise<{ pace: number; answer: Answer }> {
  const { on, run, threads, tokens } = CASES[name];
  const answers = await (on === "pair" ? pair : alone).ask({ do: "steps", name: run, count, threads });
  const slowest = Math.max(...answers.map(({ ms }) => Number(ms)));
  return { pace: (1000 * tokens) / slowest, answer: answers[0] };
}

/** All cases of both sides, round by round, each round in the other order. */
async function measure(ours: Side, peer: Side, { rounds, count }: { rounds: number; count: number }) {
  const samples = { ours: noSamples(), peer: noSamples() };
  const waits: Record<string, number[]> = { replicated: [], sharded: [] };
  const turns = CASE_NAMES.flatMap((name) => [
    { name, side: "ours" as const },
    { name, side: "peer" as const },
  ]);
  for (let round = -1; round < rounds; round++) {
    for (const { name, side } of round % 2 === 0 ? turns : [...turns].reverse()) {
      const { pace: tokens, answer } = await pace(side === "ours" ? ours : peer, name, count);
      if (round < 0) continue;
      samples[side][name].push(tokens);
      if (side === "ours" && name in waits) waits[name].push(Number(answer.waitShare));
    }
  }
  return { ...samples, waits };
}

function paceRows({ ours, peer, waits }: Awaited<ReturnType<typeof measure>>): BenchRow[] {
  const rows = CASE_NAMES.map((name) => {
    const waitShare = name in waits ? { waitShare: median(waits[name]) } : {};
    return pairedRow(name, "tokens/s", ours[name], peer[name], { ...waitShare });
  });
  for (const name of ["replicated", "sharded"] as const) {
    const against = (samples: Samples, reference: Case, times: number) =>
      samples[name].map((tokens, i) => tokens / (times * samples[reference][i]));
    const one = "one process, 1 thread";
    const two = "one process, 2 threads";
    rows.push(
      pairedRow(`${name}: share of ${SIZE} x ${one}, alone`, "", against(ours, one, SIZE), against(peer, one, SIZE)),
      pairedRow(`${name}: times ${two}`, "", against(ours, two, 1), against(peer, two, 1)),
    );
  }
  return rows;
}

/** What a run sends in a step: as we count it, and what crosses the wire, headers and all. MB of each process. */
async function volume({ pair }: Side, name: string, count: number): Promise<{ counted: number; wire?: number }> {
  const before = pair.namespace?.bytes();
  const [{ bytes }] = await pair.ask({ do: "steps", name, count });
  const wire = pair.namespace && (pair.namespace.bytes() - Number(before)) / count / SIZE / MB;
  return { counted: Number(bytes) / MB, wire };
}

async function volumeRows(ours: Side, peer: Side, facts: Facts, count: number): Promise<BenchRow[]> {
  const { parameters, rootParameters, bfloat16 } = facts;
  const body = parameters - rootParameters;
  const gathered = bfloat16 ? 2 : 4;
  const REDUCED = 4; // gradients travel as float32
  const share = (SIZE - 1) / SIZE;
  // What belongs to no layer is gathered once a step.
  const theory = {
    replicated: 2 * share * REDUCED * parameters,
    sharded: share * (gathered * (2 * body + rootParameters) + REDUCED * parameters),
    kept: share * (gathered * parameters + REDUCED * parameters),
  };
  const rows: BenchRow[] = [];
  for (const [name, bytes] of Object.entries(theory)) {
    const own = await volume(ours, name, count);
    const other = await volume(peer, name, count);
    const title = name === "kept" ? "sharded, reshardAfterForward: false" : name;
    rows.push(
      pairedRow(`sent a step, ${title}: counted, theory`, "MB", [own.counted], [bytes / MB], { better: "less" }),
    );
    if (own.wire === undefined || other.wire === undefined) continue;
    rows.push(pairedRow(`sent a step, ${title}: on the wire`, "MB", [own.wire], [other.wire], { better: "less" }));
  }
  return rows;
}

/** Steps while a checkpoint is copied and written against as many without. The peer of the row is ours without. */
async function savingRow({ pair }: Side, rounds: number): Promise<BenchRow> {
  const saving: number[] = [];
  const without: number[] = [];
  const busySteps: number[] = [];
  const seconds: number[] = [];
  const ask = async (name: string, count: number) => (await pair.ask({ do: "steps", name, count }))[0];
  for (let round = -1; round < rounds; round++) {
    // The step that a checkpoint is due after ends a round: copying and writing it falls into the next.
    const measureSaving = async (): Promise<BusySteps> => {
      const { busy, ms } = await ask("saving", STEPS_PER_SAVE);
      // On a busy machine the writer, whose priority is low, may need more steps than there are: all of them count.
      return (busy as BusySteps | undefined) ?? { steps: STEPS_PER_SAVE, ms: Number(ms), seconds: Number.NaN };
    };
    const measureWithout = async () => Number((await ask("sharded", STEPS_PER_SAVE)).ms);
    let plain = round % 2 === 0 ? await measureWithout() : Number.NaN;
    const busy = await measureSaving();
    if (round % 2 !== 0) plain = await measureWithout();
    if (round < 0) continue; // nothing was saved before it
    saving.push(busy.ms);
    without.push(plain);
    busySteps.push(busy.steps);
    if (Number.isFinite(busy.seconds)) seconds.push(busy.seconds);
  }
  const written = seconds.length > 0 ? { secondsToWrite: median(seconds) } : {};
  const details = { better: "less" as const, steps: median(busySteps), ...written };
  return pairedRow("step while a checkpoint is written, without", "ms", saving, without, details);
}

const STEPS_PER_SAVE = 16;

interface BusySteps {
  steps: number;
  ms: number;
  seconds: number;
}

interface Facts {
  parameters: number;
  rootParameters: number;
  bfloat16: boolean;
}

async function prepare(ours: Side, peer: Side, folder: string): Promise<Facts> {
  const bfloat16 = cpuHasBfloat16();
  const common = { do: "setup", length: LENGTH, bfloat16, lr: 1e-3 };
  const own = { ...common, blockSize: 4 };
  const shard = SIZE;
  const whole = SIZE * BATCH;
  await ours.alone.ask({ ...own, name: "one", batch: BATCH });
  const [facts] = await ours.alone.ask({ ...own, name: "two", batch: whole });
  await ours.pair.ask({ ...own, name: "replicated", batch: whole });
  await ours.pair.ask({ ...own, name: "sharded", batch: whole, run: { parallel: { shard } } });
  const kept = { parallel: { shard, reshardAfterForward: false } };
  await ours.pair.ask({ ...own, name: "kept", batch: whole, run: kept });
  const saved = { parallel: { shard }, outputDir: join(folder, "run"), checkpointEvery: { steps: STEPS_PER_SAVE } };
  await ours.pair.ask({ ...own, name: "saving", batch: whole, run: saved });

  const other = { ...common, block_size: 4, mask_id: MASK_ID };
  await peer.alone.ask({ ...other, name: "one", mode: "alone", batch: BATCH });
  const [{ parameters }] = await peer.alone.ask({ ...other, name: "two", mode: "alone", batch: whole });
  await peer.pair.ask({ ...other, name: "replicated", mode: "replicated", batch: BATCH });
  await peer.pair.ask({ ...other, name: "sharded", mode: "sharded", batch: BATCH });
  await peer.pair.ask({ ...other, name: "kept", mode: "sharded", batch: BATCH, reshard: false });
  if (facts.parameters !== parameters) throw new Error(`${facts.parameters} parameters, the peer ${parameters}`);
  return { parameters: Number(parameters), rootParameters: Number(facts.rootParameters), bfloat16 };
}

function startOurs(folder: string, namespace: NetworkNamespace | undefined): Side {
  const line = { command: process.execPath, args: [...process.execArgv, rankScript, folder] };
  return { alone: new Processes(line), pair: new Processes({ ...line, size: SIZE, namespace }) };
}

function startPeer(python: string, folder: string, namespace: NetworkNamespace | undefined): Side {
  const line = { command: python, args: ["-u", peerScript, folder] };
  return { alone: new Processes(line), pair: new Processes({ ...line, size: SIZE, namespace }) };
}

async function main(): Promise<void> {
  const { rounds, quick } = benchOptions();
  const python = findPythonWithTorch();
  const { torch: version } = torch.build();
  if (!python) throw new Error(pythonMissing(version));
  if (python.torch.split("+")[0] !== version.split("+")[0]) {
    throw new Error(`the peer has torch ${python.torch}, ours is built on ${version}: not the same libtorch`);
  }
  const folder = mkdtempSync(join(tmpdir(), "diffcoder-distributed-"));
  const checkpoint = join(folder, "model");
  using coder = StableDiffCoder.fromConfig("tiny", { seed: 7 });
  await coder.savePretrained(checkpoint);
  const namespaces = [await NetworkNamespace.open(), await NetworkNamespace.open()];
  if (!namespaces[0] || !namespaces[1]) {
    console.log("no network namespace can be made here: what crosses the wire is not measured");
  }
  const ours = startOurs(checkpoint, namespaces[0]);
  const peer = startPeer(python.python, checkpoint, namespaces[1]);
  try {
    const facts = await prepare(ours, peer, folder);
    const count = quick ? 1 : 3;
    const measured = await measure(ours, peer, { rounds: rounds ?? (quick ? 2 : 7), count });
    const rows = paceRows(measured);
    rows.push(...(await volumeRows(ours, peer, facts, quick ? 1 : 3)));
    const saving = await savingRow(ours, rounds ?? (quick ? 2 : 7));
    rows.push(saving);
    const precision = facts.bfloat16 ? "bf16 autocast" : "fp32";
    const title = `${SIZE} processes x ${BATCH} x ${LENGTH} tokens, B = 4, ${(facts.parameters / 1e6).toFixed(1)}M parameters`;
    report(`Distributed training: ${title}, ${precision}`, rows, { pytorch: python.torch });
    for (const name of ["replicated", "sharded"] as const) {
      console.log(
        `${name}: ${(100 * median(measured.waits[name])).toFixed(1)} % of our step waits for the other process`,
      );
    }
    const { ratio, steps, secondsToWrite } = saving as BenchRow & { steps: number; secondsToWrite?: number };
    console.log(
      `a checkpoint is written in ${secondsToWrite === undefined ? "longer than a round" : `${secondsToWrite.toFixed(2)} s`}, during ${steps} steps, which take ` +
        `${(100 * (1 / ratio - 1)).toFixed(1)} % longer; of that row's columns the first is with it, the second without`,
    );
  } finally {
    for (const side of [ours, peer]) {
      side.alone.close();
      side.pair.close();
    }
    for (const namespace of namespaces) namespace?.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

await main();
