// Block-diffusion continual pre-training (CPT) of a checkpoint in Hugging Face layout: Seed-Coder, Llama, Qwen2 or your own.
//
//   MODEL=checkpoints/Seed-Coder-8B DATA=corpus STEPS=20000 npx diffcoder train examples/continue-pretraining.ts --device cuda
//
// Without MODEL it uses the quickstart's checkpoint from before the anneal. The paper also starts there, because an annealed
// model learns a new task less well.
import {
  blockDiffusion,
  Curriculum,
  type CurriculumFileContext,
  clippedLinear,
  decayTo,
  prepareData,
  StableDiffCoder,
  Tokenizer,
  warmupStable,
} from "stable-diffcoder";

const path = process.env.MODEL ?? "runs/quickstart/checkpoints/pre-anneal";
const steps = Number(process.env.STEPS ?? 400);
const peak = Number(process.env.LR ?? 5e-4); // use less for a large model: 1e-5 to 1e-4

// The checkpoint's own tokenizer. It needs a mask token. Seed-Coder's tokenizer has one; for others choose an unused token:
// Tokenizer.fromPretrained(path, { specialTokens: { mask: "<|fim_pad|>" } }).
const tokenizer = Tokenizer.fromPretrained(path);
const data = await prepareData(
  {
    paths: process.env.DATA ? [process.env.DATA] : "default",
    seqLen: Number(process.env.LENGTH ?? 256), // the paper: 8192
    keepDocumentBoundaries: false, // packed documents attend to each other, as in the paper
  },
  tokenizer,
);

const common = {
  data,
  globalBatchSize: 8,
  gradientAccumulationSteps: 2, // two micro-batches of four: half the memory, the same result
  blockSize: 4,
  noise: clippedLinear(),
  maskId: tokenizer.require("mask"),
};
export const curriculum = new Curriculum([
  blockDiffusion({
    ...common,
    name: "cpt",
    steps: Math.ceil(0.8 * steps),
    lr: warmupStable(peak),
    warmup: { steps: Math.ceil(0.2 * steps) }, // the paper's run: 1000 steps
  }),
  blockDiffusion({ ...common, name: "anneal", steps: Math.ceil(0.2 * steps), lr: decayTo(0) }),
]);
// Weights, gradients and moments in float32; the forward pass runs in bfloat16 where the hardware multiplies it.
export const model = ({ device }: CurriculumFileContext) =>
  StableDiffCoder.fromPretrained(path, { dtype: "float32", device });
