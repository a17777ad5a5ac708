import type { Dataset, Sample } from "../../lib/data/index.js";
import { type Architecture, Decoder, decoderConfig } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import {
  adamw,
  autoregressive,
  type BlockDiffusionStageOptions,
  blockDiffusion,
  type Stage,
} from "../../lib/train/index.js";

// Two threads on a busy machine wait for each other longer than these models compute.
torch.setNumThreads(1);

/** Rows of numbers that a model can learn: each token follows from the one before. */
export class Counting implements Dataset {
  readonly hash: string;

  constructor(
    readonly numSamples = 37,
    readonly seqLen = 16,
    readonly vocabSize = 48,
  ) {
    this.hash = `counting ${numSamples} ${seqLen} ${vocabSize}`;
  }

  sample(index: number): Sample {
    const first = 8;
    const tokens = Int32Array.from(
      { length: this.seqLen },
      (_, i) => first + ((index * 5 + i * 3) % (this.vocabSize - first)),
    );
    return { tokens };
  }
}

/** A decoder small enough for thousands of steps in a test. */
export function tinyModel(
  overrides: { seed?: number; hiddenSize?: number; dtype?: "float32" | "bfloat16"; architecture?: Architecture } = {},
): Decoder {
  const { seed = 1, hiddenSize = 16, dtype, architecture } = overrides;
  const config = decoderConfig({
    architecture,
    vocabSize: 48,
    hiddenSize,
    intermediateSize: 32,
    numLayers: 2,
    numHeads: 2,
    numKeyValueHeads: 1,
    maxPositionEmbeddings: 64,
    bosTokenId: 0,
    padTokenId: 1,
    eosTokenId: 2,
    maskTokenId: 5,
  });
  using generator = new torch.Generator({ seed });
  return new Decoder(config, { generator, dtype });
}

export const data = new Counting();

/** The paper's curriculum in miniature: 6 steps AR, 8 diffusion, 4 anneal. */
export function tinyStages({ steps = 8, ...changes }: Partial<BlockDiffusionStageOptions> = {}): Stage[] {
  const common = { data, globalBatchSize: 4, precision: "float32" as const };
  return [
    autoregressive({ ...common, name: "compress", steps: 6, lr: 1e-2, checkpoint: "pre-anneal", optimizer: adamw() }),
    blockDiffusion({
      ...common,
      name: "cpt",
      steps,
      blockSize: 4,
      warmup: { steps: 4, hold: { multiple: 1.5 } },
      ...changes,
    }),
    blockDiffusion({ ...common, name: "anneal", steps: 4, lr: { type: "decay-to", min: 0 } }),
  ];
}
