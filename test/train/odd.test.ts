import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { listCheckpoints } from "../../lib/checkpoint/index.js";
import { CheckpointStore } from "../../lib/checkpoint/store.js";
import { type Dataset, PackedDataset, type Sample } from "../../lib/data/index.js";
import { warmupStable, warmupStableDecay } from "../../lib/nn/index.js";
import * as torch from "../../lib/torch/index.js";
import {
  autoregressive,
  blockDiffusion,
  Curriculum,
  type Objective,
  type Stage,
  stage,
} from "../../lib/train/index.js";
import { collect, data, stepsOf, temporaryFolder, tinyModel } from "./support.js";

const good = autoregressive({ name: "good", data, steps: 3, globalBatchSize: 2, lr: 1e-3, precision: "float32" });
const fine: Objective = (...args) => good.objective(...args);

/** Objectives that go wrong in the third step, and what is said of them. */
const objectives: Record<string, [gives: (right: ReturnType<Objective>) => unknown, message: RegExp]> = {
  nothing: [() => undefined, /result is undefined; expected \{ loss, normalizer, metrics \}/],
  null: [() => null, /result is null/],
  "a string": [() => "loss", /result is 'loss'/],
  "a list": [() => [1], /result is \[ 1 \]/],
  "a promise": [async (right) => right, /result is a promise; .* not async/],
  "a promise that never settles": [() => new Promise(() => {}), /result is a promise/],
  "no loss": [() => ({ normalizer: 1 }), /loss is undefined, expected a tensor/],
  "a vector": [(right) => ({ ...right, loss: torch.ones([3]) }), /loss has shape \[3\]/],
  "an integer loss": [
    (right) => ({ ...right, loss: torch.tensor(3, { dtype: "int64" }) }),
    /loss is int64, expected float32/,
  ],
  "a loss of nothing": [(right) => ({ ...right, loss: right.loss.detach() }), /does not depend on the model's weights/],
  "a normaliser that is none": [(right) => ({ ...right, normalizer: "3" }), /normalizer is '3'/],
  "null metrics": [(right) => ({ ...right, metrics: null }), /metrics are null/],
  "a metric that is a string": [(right) => ({ ...right, metrics: { acc: "1" } }), /metric 'acc' is '1'/],
  "a metric that is a vector": [
    (right) => ({ ...right, metrics: { acc: torch.ones([2]) } }),
    /'acc' is a tensor of shape/,
  ],
  "a metric without a count": [
    (right) => ({ ...right, metrics: { acc: { total: 1 } } }),
    /metric 'acc' is \{ total: 1 \}/,
  ],
  "a built-in metric": [
    (right) => ({ ...right, metrics: { loss: 1 } }),
    /metric 'loss' has the name of a built-in metric/,
  ],
};
const thrown: [string, unknown, RegExp][] = [
  ["null", null, /threw null, which is not an Error/],
  ["undefined", undefined, /threw undefined/],
  ["a string", "oops", /threw 'oops'/],
  ["an Error", new RangeError("oops"), /failed: RangeError: oops \(.*odd\.test\.ts:\d+:\d+\)/],
];

/** A run whose second stage goes wrong: a coded error that names it, and the checkpoint before is whole. */
async function expectFailure(second: Stage, code: string, message: RegExp): Promise<void> {
  const out = temporaryFolder();
  using model = tinyModel();
  const run = collect([good, second], {
    model,
    outputDir: out,
    sinks: [],
    checkpointEvery: { steps: 1 },
    keepLatest: 99,
  });
  await expect(run).rejects.toMatchObject({ name: "TrainError", code });
  await expect(run).rejects.toThrow(message);
  await expect(run).rejects.toThrow(/stage 'odd'/);
  const { readable, unreadable } = listCheckpoints(join(out, "checkpoints"));
  expect(unreadable).toEqual([]);
  expect(readable.length).toBeGreaterThan(2);
  const store = new CheckpointStore(out, 99);
  for (const found of readable) expect(await store.verify(found)).toBeUndefined();
}

const odd = (objective: Objective, dataset: Dataset = data) =>
  stage({ name: "odd", data: dataset, objective, steps: 5, globalBatchSize: 2, lr: 1e-3, precision: "float32" });

describe("an objective in its third step", () => {
  it.each(Object.entries(objectives))("that gives %s", async (_, [gives, message]) => {
    const objective: Objective = (model, batch, context) => {
      const right = fine(model, batch, context);
      return context.step < 2 ? right : (gives(right) as typeof right);
    };
    await expectFailure(odd(objective), "TRAIN_OBJECTIVE", message);
  });

  it.each(thrown)("that throws %s", async (_, value, message) => {
    const objective: Objective = (model, batch, context) => {
      if (context.step === 2) throw value;
      return fine(model, batch, context);
    };
    await expectFailure(odd(objective), "TRAIN_OBJECTIVE", message);
  });

  it("whose state is no JSON", async () => {
    const objective: Objective = (model, batch, context) => {
      context.state.seen = new Map();
      return fine(model, batch, context);
    };
    await expectFailure(odd(objective), "TRAIN_OBJECTIVE", /state\.seen is Map\(0\) \{\}.*JSON/);
  });
});

describe("data that gives", () => {
  const tokens = (value: number) => new Int32Array(16).fill(value);
  it.each<[string, unknown, RegExp]>([
    ["null", null, /sample \d+ is null/],
    ["a promise", Promise.resolve({ tokens: tokens(9) }), /sample \d+ is a promise/],
    ["no tokens", {}, /has tokens of type undefined/],
    ["too few", { tokens: new Int32Array(3) }, /sample \d+ has 3 tokens/],
    ["fractions", { tokens: new Float32Array(16).fill(9.5) }, /has the token 9\.5 at position 0/],
    ["words of 64 bits", { tokens: new BigInt64Array(16) }, /has the token 0 at position 0/],
    ["a short loss mask", { tokens: tokens(9), lossMask: new Uint8Array(2) }, /lossMask of 2 entries/],
    ["odd starts", { tokens: tokens(9), starts: [0, 99] }, /has starts \[0,99\]/],
    [
      "an id outside the vocabulary",
      { tokens: tokens(48) },
      /sample \d+ has the token id 48 at position 0, .*largest id is 47/,
    ],
    ["a negative id", { tokens: tokens(-100) }, /sample \d+ has the token id -100 at position 0/],
  ])("%s", async (_, sample, message) => {
    const dataset: Dataset = { seqLen: 16, numSamples: 5, sample: () => sample as Sample };
    await expectFailure(odd(fine, dataset), "TRAIN_DATA", message);
  });
});

describe("sizes that are absurd", () => {
  const tiny = { name: "odd", data, steps: 1, lr: 1e-3 };
  it.each<[string, () => unknown, RegExp]>([
    ["globalBatchSize", () => autoregressive({ ...tiny, globalBatchSize: 1e9 }), /globalBatchSize: .*1048576/],
    [
      "gradientAccumulationSteps",
      () => autoregressive({ ...tiny, gradientAccumulationSteps: 1e9 }),
      /gradientAccumulationSteps: .*65536/,
    ],
    ["steps", () => autoregressive({ ...tiny, steps: 2 ** 60 }), /steps: .*2147483647/],
    [
      "length",
      () =>
        new Curriculum([
          autoregressive({ ...tiny, data: { seqLen: 1e9, numSamples: 1, sample: () => null as never } }),
        ]),
      /1000000000 tokens per sequence.*16777216/,
    ],
    [
      "warmup and decay",
      () => new Curriculum([autoregressive({ ...tiny, steps: 10, lr: warmupStableDecay(1, { warmup: 8, decay: 8 }) })]),
      /longer than the stage's 10/,
    ],
  ])("%s", (_, make, message) => {
    expect(make).toThrow(message);
  });
});

describe("a stage that is odd trains, with a warning:", () => {
  const first = (events: Awaited<ReturnType<typeof collect>>) => events.find(({ type }) => type === "warning");
  it("a warmup that is longer", async () => {
    using model = tinyModel();
    const events = await collect([{ ...good, schedule: warmupStable(1e-3, { warmup: 50 }) }], { model });
    expect(first(events)).toMatchObject({
      code: "STAGE",
      message: expect.stringMatching(/stage 'good'.*warmup takes 50 steps/),
    });
  });

  it("crossDocumentAttention: false over data that keep no boundaries", async () => {
    using model = tinyModel();
    const source = {
      numTokens: 64,
      starts: new Float64Array([0, 40, 64]),
      hash: "h",
      documentAt: (at: number) => (at < 40 ? 0 : 1),
    };
    const read = (from: number, to: number) => new Int32Array(to - from).fill(9);
    const on = (keepDocumentBoundaries: boolean, crossDocumentAttention?: boolean) => {
      const data = new PackedDataset({ ...source, read }, { seqLen: 16, keepDocumentBoundaries });
      const stage = { name: "s", data, steps: 1, globalBatchSize: 1, lr: 1e-3, precision: "float32" as const };
      return [
        autoregressive({ ...stage, crossDocumentAttention }),
        blockDiffusion({ ...stage, name: "b", crossDocumentAttention }),
      ];
    };
    const warned = await collect(on(false, false), { model });
    const messages = warned.flatMap((event) => (event.type === "warning" ? [event.message] : []));
    expect(messages).toHaveLength(2);
    expect(messages[0]).toMatch(/'s': crossDocumentAttention: false has no effect.*keepDocumentBoundaries: true/);
    expect(messages[1]).toMatch(/'b': crossDocumentAttention: false has no effect/);
    for (const stages of [on(false), on(false, true), on(true, false)]) {
      expect(first(await collect(stages, { model }))).toBeUndefined();
    }
  });

  it("mask tokens in clean text, and no targets at all", async () => {
    using model = tinyModel();
    const sample = () => ({ tokens: new Int32Array(16).fill(5), lossMask: new Uint8Array(16) });
    const events = await collect([{ ...good, data: { seqLen: 16, numSamples: 4, sample } }], { model });
    const messages = events.flatMap((event) => (event.type === "warning" ? [event.message] : []));
    expect(messages[0]).toMatch(/sample \d has|sample \d of the data contains the mask token 5/);
    expect(messages[1]).toMatch(/no token of the batch is a target/);
    expect(stepsOf(events)).toHaveLength(3);
  });
});
