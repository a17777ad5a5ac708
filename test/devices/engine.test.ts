import { afterAll, beforeAll, expect, it } from "vitest";
import { Engine, type GenerateOptions } from "../../lib/engine/index.js";
import * as torch from "../../lib/torch/index.js";
import { runCore } from "../engine/core-run.js";
import { collect, randomPrompt, sharpCoder } from "../engine/support.js";
import { heldTensors } from "../torch/held-tensors.js";
import { FakeCuda } from "./fake-cuda.js";

let cuda: FakeCuda;
beforeAll(() => {
  cuda = new FakeCuda();
});
afterAll(() => cuda[Symbol.dispose]());

const options: GenerateOptions = { maxTokens: 40, stopTokenIds: [] };
const jobs = Array.from({ length: 7 }, (_, i) => ({
  prompt: randomPrompt(i, 1 + 9 * i),
  options: { ...options, maxTokens: 20 + 7 * i, commit: { rule: "threshold", value: 0.6 } } as GenerateOptions,
}));

it.each([
  ["float32", 32],
  ["bfloat16", 32],
  ["bfloat16", 256],
] as const)(
  "the engine in %s, pages of %i: no mixed devices, one wait a pass, and nothing in a graph that cannot be recorded",
  async (dtype, pageSize) => {
    const coder = sharpCoder().to({ device: "cuda", dtype });
    await using engine = await Engine.create({ model: coder, worker: "none", pageSize, maxNumSeqs: 4 });
    cuda.take();
    const tensors = heldTensors();
    const all = jobs.map(({ prompt, options: each }) => collect(engine, prompt, each));
    for (const [i, { ids }] of (await Promise.all(all)).entries()) expect(ids.length).toBe(jobs[i].options.maxTokens);
    const { counters } = engine.stats();
    expect(cuda.take().waits).toEqual({ readInto: counters.forwards });
    expect(counters.graphCaptures).toBeGreaterThan(1);
    expect(counters.graphReplays).toBeGreaterThan(counters.forwards / 2);
    expect(heldTensors() - tensors).toBe(cuda.graphs); // each has the integers it reads
    await engine.close();
    expect(cuda.graphs).toBe(0);
    coder.dispose();
  },
);

it("whatever requests ask for, the host waits for what it reads alone", async () => {
  const coder = sharpCoder().to({ device: "cuda" });
  const kinds: GenerateOptions[] = [
    { temperature: 1, topK: 9, n: 2 },
    { logprobs: 3, repetitionPenalty: 1.3, logitBias: { 7: 2 } },
    { commit: { rule: "entropy", bound: 0.4 }, remask: { below: 0.5, rounds: 2 } },
    { mode: "autoregressive", presencePenalty: 1 },
  ];
  await using engine = await Engine.create({ model: coder, worker: "none" });
  cuda.take();
  await Promise.all(kinds.map((kind) => engine.completeChoices(randomPrompt(1, 30), { ...options, ...kind })));
  expect(Object.keys(cuda.take().waits)).toEqual(["readInto"]);
  await engine.close();
  coder.dispose();
});

it("cudaGraphs: false launches every pass, with the same tokens", async () => {
  const coder = sharpCoder().to({ device: "cuda" });
  const recorded = await runCore(coder, jobs);
  const launched = await runCore(coder, jobs, {}, { cudaGraphs: false });
  expect(recorded.counters.graphReplays).toBeGreaterThan(0);
  expect(launched.counters.graphReplays).toBe(0);
  expect(recorded.ids).toEqual(launched.ids);
  coder.dispose();
});

it("the fake device notices what a real one cannot record", () => {
  torch.scope(() => {
    const here = torch.ones([4], { device: "cuda" });
    using graph = new torch.cuda.CUDAGraph();
    const attempts: (() => unknown)[] = [
      () => here.sum().item(),
      () => here.nonzero(),
      () => torch.tensor([1], { device: "cuda" }),
      () => here.copy_(torch.zeros([4]), true),
    ];
    for (const attempt of attempts) expect(() => graph.capture(attempt)).toThrow(/record/);
    expect(() => graph.replay()).toThrow(/nothing was recorded/);
    const twice = graph.capture(() => here.mul(2));
    here.fill_(3);
    graph.replay();
    expect(twice.device).toBe("cuda:0");
  });
});
