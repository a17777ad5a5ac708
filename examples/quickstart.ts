// A small version of Stable-DiffCoder's curriculum (section 3 of the paper): the one that `npm start` trains, as a file.
//
//   npx diffcoder train examples/quickstart.ts
//   STEPS=4000 DATA=../my-project npx diffcoder train examples/quickstart.ts
import {
  autoregressive,
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

const steps = Number(process.env.STEPS ?? 1000); // optimizer steps, in all stages together
const tokenizer = Tokenizer.fromPretrained("diffcoder/code-4k"); // 4,096 tokens for code, with Seed-Coder's special tokens

// Code that is already on the machine, in sequences of 256 tokens; a tenth of the documents become fill-in-the-middle
// examples. Stages that share `data` continue reading where the previous stage stopped.
const data = await prepareData(
  { paths: process.env.DATA ? [process.env.DATA] : "default", seqLen: 256, fim: { rate: 0.1 } },
  tokenizer,
);
const common = { data, globalBatchSize: 8 };
const diffusion = { ...common, blockSize: 4, noise: clippedLinear() }; // section 3.3

export const curriculum = new Curriculum([
  // Knowledge is compressed from left to right, where contexts are clean. The checkpoint before the anneal is kept.
  autoregressive({
    ...common,
    name: "compress",
    steps: Math.ceil(0.5 * steps),
    lr: warmupStable(2e-3, { warmup: 0.04 }),
    checkpoint: "pre-anneal",
  }),
  // The same weights learn to denoise blocks of four; the mask ratio rises slowly, which keeps training stable (Eq. 10).
  blockDiffusion({
    ...diffusion,
    name: "cpt",
    steps: Math.ceil(0.3 * steps),
    lr: warmupStable(2e-3, { warmup: 0.04 }),
    warmup: { steps: Math.ceil(0.08 * steps) },
  }),
  // The learning rate falls to zero. Optimizer and initial rate are those of the previous stage.
  blockDiffusion({ ...diffusion, name: "anneal", steps: Math.ceil(0.2 * steps), lr: decayTo(0) }),
]);

export const outputDir = "runs/quickstart-by-hand";
// A function, because its argument has --device and --seed of the command line.
export const model = ({ device, seed }: CurriculumFileContext) =>
  StableDiffCoder.fromConfig("tiny", { tokenizer, device, seed });
