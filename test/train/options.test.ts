import { describe, expect, it } from "vitest";
import { PackedDataset, parseDataOptions } from "../../lib/data/index.js";
import {
  autoregressive,
  bidirectional,
  blockDiffusion,
  Curriculum,
  causalDiffusion,
  parseRecipe,
  type Stage,
  stage,
  supervised,
  type TrainError,
} from "../../lib/train/index.js";
import { Counting, tinyModel, tinyStages } from "./support.js";

const data = new Counting();

function messageOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    expect(error).toMatchObject({ name: "TrainError", code: expect.stringMatching(/^TRAIN_/) });
    return (error as TrainError).message;
  }
  throw new Error("nothing was thrown");
}

const recipe = (text: string) => messageOf(() => parseRecipe(text, "recipe.yaml"));

describe("stage options", () => {
  it("fill in defaults and stay plain values", () => {
    const made = autoregressive({ name: "a", data, steps: 3, lr: 1e-3 });
    expect(made).toMatchObject({
      kind: "autoregressive",
      globalBatchSize: 8,
      gradientAccumulationSteps: 1,
      maxGradNorm: 1,
      end: { steps: 3 },
    });
    expect(blockDiffusion({ name: "b", data, tokens: 1e6 }).positionsPerToken).toBe(2);
    expect(bidirectional({ name: "c", data, steps: 1 })).toMatchObject({ kind: "bidirectional", positionsPerToken: 1 });
    const noise = { name: "linear", clip: false, fallback: false };
    expect(causalDiffusion({ name: "d", data, steps: 1 })).toMatchObject({
      ...{ kind: "causal-diffusion", positionsPerToken: 1 },
      fingerprint: { noise, granularity: "document", shift: false },
    });
    expect({ ...made, maxGradNorm: null }.maxGradNorm).toBeNull();
  });

  it.each<[string, () => unknown, RegExp]>([
    [
      "an unknown key",
      () => autoregressive({ name: "a", data, steps: 1, globalbatchsize: 4 } as never),
      /globalbatchsize: unknown key \(did you mean globalBatchSize\?\); allowed: .*gradientAccumulationSteps/,
    ],
    ["no end", () => autoregressive({ name: "a", data }), /exactly one of steps, tokens, epochs, minutes; found none/],
    ["two ends", () => autoregressive({ name: "a", data, steps: 1, epochs: 1 }), /found steps and epochs/],
    [
      "a wrong value",
      () => blockDiffusion({ name: "a", data, steps: 1, granularity: "word" as never }),
      /granularity: expected one of "block", "document", "sequence", got "word"/,
    ],
    [
      "blocks where there are none",
      () => bidirectional({ name: "a", data, steps: 1, blockSize: 4 } as never),
      /bidirectional 'a'.*blockSize: unknown key/s,
    ],
    [
      "a wrong value inside",
      () => blockDiffusion({ name: "a", data, steps: 1, warmup: { steps: -1 } }),
      /warmup\.steps: /,
    ],
    [
      "an unknown key inside",
      () => blockDiffusion({ name: "a", data, steps: 1, warmup: { steps: 1, int: 2 } as never }),
      /warmup\.int: unknown key.*allowed: steps, initial, weighted/,
    ],
    [
      "a schedule that is none",
      () => supervised({ name: "a", data, steps: 1, lr: { type: "cosin", lr: 1 } as never }),
      /lr\.type: .*'cosine'/,
    ],
    [
      "no data",
      () => stage({ name: "a", data: [] as never, steps: 1, objective: () => null as never }),
      /data: expected a Dataset/,
    ],
    ["no objective", () => stage({ name: "a", data, steps: 1 } as never), /objective: expected a function/],
    [
      "a reserved checkpoint name",
      () => autoregressive({ name: "a", data, steps: 1, checkpoint: "step-12" }),
      /checkpoint: step-NUMBER/,
    ],
  ])("refuse %s", (_, run, message) => {
    expect(messageOf(run)).toMatch(message);
  });
});

describe("options that had another name in 0.1.0", () => {
  const on = { name: "a", data, steps: 1 };
  const packed = { numTokens: 9, starts: new Float64Array([0, 9]), hash: "", read: () => new Int32Array(4) };
  const source = { ...packed, documentAt: () => 0 };
  it.each<[() => unknown, RegExp]>([
    [() => autoregressive({ ...on, batchSize: 4 } as never), /batchSize: it is called globalBatchSize now$/],
    [() => blockDiffusion({ ...on, accumulation: 2 } as never), /accumulation: .* gradientAccumulationSteps now$/],
    [() => supervised({ ...on, clip: 1 } as never), /clip: it is called maxGradNorm now$/],
    [() => blockDiffusion({ ...on, times: "antithetic" } as never), /times: it is called timeSampling now$/],
    [() => autoregressive({ ...on, chunkSize: 7 } as never), /chunkSize: it is called headChunkSize now$/],
    [
      () => blockDiffusion({ ...on, documents: "isolated" } as never),
      /documents: it is called crossDocumentAttention now: write crossDocumentAttention: false$/,
    ],
    [
      () => parseDataOptions({ length: 8, heldOut: 0.1, documents: "isolated" }),
      /length: .* seqLen now\n.*heldOut: .* validationSplit now\n.*documents: .*: write keepDocumentBoundaries: true$/,
    ],
    [
      () => new PackedDataset(source, { seqLen: 4, documents: "visible" } as never),
      /^documents: it is called keepDocumentBoundaries now: write keepDocumentBoundaries: false$/,
    ],
    [
      () => parseRecipe("model: tiny\nkeepLast: 3\nsaving: sync\nout: x\nstages: []", "old.yaml"),
      /keepLast: .* keepLatest now\n.*saving: it is called asyncCheckpoint now: write asyncCheckpoint: false\n.*out: .* outputDir now/,
    ],
    [
      () => recipeWith("supervised", "{ records: [x], length: 8 }"),
      /stages\[0\]\.data\.records: it is called paths now\n.*length: it is called seqLen now/,
    ],
    [
      () => stage({ ...on, objective: () => null as never, facts: {} } as never),
      /facts: it is called fingerprint now$/,
    ],
  ])("are refused with that of today: %#", (run, message) => {
    expect(run).toThrow(message);
  });

  const recipeWith = (type: string, data: string) =>
    parseRecipe(`model: tiny\nstages:\n  - { type: ${type}, name: a, steps: 1, lr: 1, data: ${data} }`, "old.yaml");
});

describe("a curriculum", () => {
  const make = (changes: Partial<Stage>[]) => () =>
    new Curriculum(tinyStages().map((each, i) => ({ ...each, ...changes[i] })));

  it.each<[string, () => unknown, RegExp]>([
    ["without stages", () => new Curriculum([]), /at least one stage/],
    ["with a name twice", make([{ name: "cpt" }]), /'cpt': another stage has this name/],
    ["with a checkpoint twice", make([{}, { checkpoint: "pre-anneal" }]), /'pre-anneal' is taken/],
    ["without a rate at first", make([{ schedule: undefined }]), /first stage needs a learning rate/],
    ["with micro-batches that do not fit", make([{ gradientAccumulationSteps: 3 }]), /4 cannot be cut into 3/],
    ["with a schedule that is no number", make([{ schedule: () => Number.NaN }]), /returns NaN at step 0/],
  ])("refuses one %s", (_, run, message) => {
    expect(messageOf(run)).toMatch(message);
  });

  it("refuses a stage that would learn at what an anneal left over", () => {
    const anneal = blockDiffusion({
      name: "long anneal",
      data,
      steps: 1000,
      lr: { type: "decay-to", min: 0, from: 1e-2 },
    });
    const after = autoregressive({ name: "more", data, steps: 2 });
    expect(messageOf(() => new Curriculum([anneal, after]))).toMatch(
      /'more': it has no lr, and the previous stage ends with 0.000010/,
    );
    new Curriculum([anneal, supervised({ name: "sft", data, steps: 2 })]); // has a rate of its own
  });

  it("refuses data that is longer than the model takes", async () => {
    using model = tinyModel();
    const long = autoregressive({ name: "a", data: new Counting(5, 128), steps: 1, lr: 1e-3 });
    const run = new Curriculum([long]).run({ model });
    await expect(run.next()).rejects.toThrow("128 tokens per sequence, but the model takes at most 64");
  });

  it("refuses wrong run options", async () => {
    using model = tinyModel();
    const run = new Curriculum(tinyStages()).run({ model, device: "gpu", keeplast: 1 } as never);
    await expect(run.next()).rejects.toThrow(
      /device: expected "cpu", "cuda"[\s\S]*keeplast: unknown key \(did you mean keepLatest\?\)/,
    );
  });
});

describe("a recipe in YAML", () => {
  const good = `
model: tiny
data: { seqLen: 64, paths: default }
outputDir: runs/x
stages:
  - { type: autoregressive, name: compress, steps: 100, lr: { type: warmup-stable, lr: 3e-4 }, checkpoint: pre-anneal }
  - { type: block-diffusion, name: cpt, tokens: 1e5, blockSize: 4, noise: clipped-linear, warmup: { steps: 10 } }
  - { type: supervised, name: sft, epochs: 3, data: { paths: [chats.jsonl], seqLen: 64 } }
`;
  it("is read", () => {
    expect(parseRecipe(good, "recipe.yaml")).toMatchObject({
      model: "tiny",
      stages: [{ name: "compress" }, { tokens: 1e5 }, {}],
    });
  });

  it.each<[string, string, string, RegExp]>([
    [
      "an unknown key",
      "outputDir: runs/x",
      "output: runs/x",
      /output: unknown key; allowed: outputDir, device, seed, .*stages/,
    ],
    ["an unknown key of a stage", "steps: 100", "step: 100", /stages\[0\]\.step: unknown key \(did you mean steps\?\)/],
    [
      "an unknown type",
      "type: supervised",
      "type: sft",
      /stages\[2\]\.type: .*'autoregressive'.*'block-diffusion'.*'supervised'/,
    ],
    ["a wrong value", "blockSize: 4", "blockSize: four", /stages\[1\]\.blockSize: expected number, got "four"/],
    ["a wrong schedule", "lr: 3e-4", "rate: 3e-4", /stages\[0\]\.lr\.lr: missing/],
    ["a wrong noise", "noise: clipped-linear", "noise: gaussian", /stages\[1\]\.noise: expected .*clipped-linear/],
    [
      "an unknown key of the data",
      "paths: default",
      "path: default",
      /data\.path: unknown key \(did you mean paths\?\); allowed: .*paths, extensions/,
    ],
    [
      "an unknown key of data for fine-tuning",
      "paths: [chats.jsonl]",
      "paths: [chats.jsonl], pack: true",
      /stages\[2\]\.data\.pack: unknown key; allowed: type, paths, seqLen, packing/,
    ],
    ["no end", "steps: 100, ", "", /stages\[0\]: give exactly one of steps, tokens, epochs, minutes/],
    ["no model", "model: tiny\n", "", /model: missing|model: expected/],
    ["no YAML", "stages:", "stages: [", /recipe\.yaml is not valid YAML: .*line \d+/],
    [
      "a key twice",
      "outputDir: runs/x",
      "outputDir: runs/x\noutputDir: runs/y",
      /not valid YAML: the key outputDir is repeated in a mapping, at line 5, column 1/,
    ],
  ])("refuses %s", (_, from, to, message) => {
    expect(recipe(good.replace(from, to))).toMatch(message);
  });

  it("names all mistakes at once", () => {
    const text = recipe(good.replace("steps: 100", "step: 100").replace("blockSize: 4", "blockSize: 0"));
    expect(text).toMatch(/stages\[0\]\.step[\s\S]*stages\[1\]\.blockSize/);
  });
});
