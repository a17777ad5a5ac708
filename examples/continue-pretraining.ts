// Continual pre-training of a checkpoint in Hugging Face layout: Seed-Coder's or Llama's and Qwen2's kind, from its
// folder. The AR model becomes a block-diffusion one. Run it with
//   MODEL=path/to/Seed-Coder-8B-Base DATA=path/to/code npx diffcoder train examples/continue-pretraining.ts --device cuda
import {
  adamw,
  blockDiffusion,
  Curriculum,
  clippedLinear,
  decayTo,
  maskRatioWarmup,
  prepareData,
  StableDiffCoder,
  warmupStable,
} from "stable-diffcoder";

const { MODEL = "runs/quickstart/checkpoints/pre-anneal", DATA, STEPS = "2000", LENGTH = "256" } = process.env;
const steps = Number(STEPS);

export const model = await StableDiffCoder.fromPretrained(MODEL, { dtype: "float32" });
const corpus = await prepareData({ length: Number(LENGTH), ...(DATA && { paths: [DATA] }) }, model.tokenizer);

// Half precision in the forward, float32 weights and moments: what `precision: "auto"` chooses where the hardware has it.
export const curriculum = new Curriculum([
  blockDiffusion({
    name: "cpt",
    data: corpus,
    steps,
    batchSize: 8,
    accumulation: 2,
    blockSize: 4,
    optimizer: adamw({ betas: [0.9, 0.95], weightDecay: 0.1 }),
    lr: warmupStable(3e-5, { warmup: 0.01 }),
    noise: clippedLinear(),
    // Our extension of Eq. 10: the ramp waits while the gradient norm is above three times its level at the start.
    warmup: maskRatioWarmup({ steps: Math.ceil(steps / 4), hold: { multiple: 3 } }),
  }),
  blockDiffusion({ name: "anneal", data: corpus, steps: Math.ceil(steps / 4), lr: decayTo(0), checkpoint: "base" }),
]);
