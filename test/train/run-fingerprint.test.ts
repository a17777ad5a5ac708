import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { autoregressive, blockDiffusion, type Stage, sgd, stage, supervised } from "../../lib/train/index.js";
import { planStages } from "../../lib/train/plan.js";
import { currentNames, fingerprintOf } from "../../lib/train/run-fingerprint.js";
import { Counting, tinyModel } from "./tiny.js";

// What 0.1.0 wrote into checkpoints of these stages, whose options had other names then.
const OLD = readFileSync(new URL("../fixtures/train/fingerprint-0.1.0.json", import.meta.url), "utf8").trim();

const data = new Counting();

function stages(): Stage[] {
  const custom = () => ({}) as never;
  return [
    autoregressive({
      ...{ name: "ar", data, steps: 6, lr: 1e-2, globalBatchSize: 4, headChunkSize: 7, maxGradNorm: null },
      crossDocumentAttention: true,
    }),
    autoregressive({ name: "ar plain", data, steps: 6, optimizer: sgd() }),
    blockDiffusion({
      ...{ name: "bd", data, tokens: 999, warmup: { steps: 2 }, maskId: 5, maxGradNorm: 0.5 },
      timeSampling: "antithetic",
      gradientAccumulationSteps: 2,
    }),
    supervised({ name: "sft", data, epochs: 2, crossDocumentAttention: false }),
    stage({
      ...{ name: "own", data, objective: custom, minutes: 1, lr: 1e-3 },
      fingerprint: { documents: "mine", clip: 1 },
    }),
  ];
}

describe("a run's fingerprint", () => {
  it("is in a checkpoint byte for byte what it was in 0.1.0", () => {
    using model = tinyModel();
    expect(JSON.stringify(fingerprintOf(model, planStages(stages(), 3), 3))).toBe(OLD);
  });

  it("is shown with today's names", () => {
    const [ar, plain, bd, sft, own] = currentNames(JSON.parse(OLD)).stages;
    expect(ar).toMatchObject({ globalBatchSize: 4, maxGradNorm: null, data: { seqLen: 16 } });
    expect(ar.objective).toEqual({ crossDocumentAttention: true, headChunkSize: 7 });
    expect(plain.objective).toEqual({ crossDocumentAttention: false, headChunkSize: 1024 });
    expect(bd.objective).toMatchObject({ timeSampling: "antithetic", crossDocumentAttention: false });
    expect(sft).toMatchObject({ globalBatchSize: 8, maxGradNorm: 1 });
    expect(own.objective).toEqual({ documents: "mine", clip: 1 });
    const keys = JSON.stringify([ar, plain, bd, sft]).match(/"\w+":/g);
    for (const old of ["batchSize", "clip", "documents", "chunkSize", "times", "length"]) {
      if (old !== "clip") expect(keys).not.toContain(`"${old}":`); // noise schedules have a clip of their own
    }
  });
});
