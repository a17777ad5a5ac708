// The curriculum of Stable-DiffCoder in small (section 3 of the paper): what `npm start` trains, as a file of your own.
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

const steps = Number(process.env.STEPS ?? 1000); // of the optimiser, in all stages together
const tokenizer = Tokenizer.fromPretrained("diffcoder/code-4k"); // 4,096 tokens of code, with Seed-Coder's special ones

// Code that the machine has anyway, cut into sequences of 256 tokens; a tenth of the documents teach filling in the
// middle. Stages that share `data` go on reading where the stage before stopped.
const data = await prepareData(
  { paths: process.env.DATA ? [process.env.DATA] : "default", seqLen: 256, fim: { rate: 0.1 } },
  tokenizer,
);
const common = { data, globalBatchSize: 8 };
const diffusion = { ...common, blockSize: 4, noise: clippedLinear() }; // section 3.3

export const curriculum = new Curriculum([
  // Knowledge is compressed left to right, where contexts are clean. The checkpoint from before the anneal is kept.
  autoregressive({
    ...common,
    name: "compress",
    steps: Math.ceil(0.5 * steps),
    lr: warmupStable(2e-3, { warmup: 0.04 }),
    checkpoint: "pre-anneal",
  }),
  // The same weights learn to denoise blocks of four; the mask ratio rises slowly, so that they survive it (Eq. 10).
  blockDiffusion({
    ...diffusion,
    name: "cpt",
    steps: Math.ceil(0.3 * steps),
    lr: warmupStable(2e-3, { warmup: 0.04 }),
    warmup: { steps: Math.ceil(0.08 * steps) },
  }),
  // The rate falls to nothing. The optimiser and its rate are those of the stage before.
  blockDiffusion({ ...diffusion, name: "anneal", steps: Math.ceil(0.2 * steps), lr: decayTo(0) }),
]);

export const outputDir = "runs/quickstart-by-hand";
// A function, because --device and --seed of the command line come in its argument.
export const model = ({ device, seed }: CurriculumFileContext) =>
  StableDiffCoder.fromConfig("tiny", { tokenizer, device, seed });
