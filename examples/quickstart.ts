// The quickstart's curriculum as a file of one's own: the paper's Fig. 3 in small. Run it with
//   npx diffcoder train examples/quickstart.ts
// STEPS scales it: the AR stage takes STEPS, diffusion half of it and the anneal a quarter.
import {
  autoregressive,
  blockDiffusion,
  Curriculum,
  clippedLinear,
  decayTo,
  prepareData,
  StableDiffCoder,
  Tokenizer,
  warmupStable,
} from "stable-diffcoder";

const steps = Number(process.env.STEPS ?? 800);
const tokenizer = Tokenizer.fromPretrained("assets/tokenizer");

// Code that this machine has anyway; `paths: ["../my-project"]` takes your own.
const corpus = await prepareData(
  { length: 256, fim: { rate: 0.1 }, ...(process.env.DATA && { paths: [process.env.DATA] }) },
  tokenizer,
);

export const model = StableDiffCoder.fromConfig("tiny", { tokenizer, seed: 1 });

// Diffusion starts from the AR checkpoint *before* annealing, which is still plastic (section 3.1).
export const curriculum = new Curriculum([
  autoregressive({
    name: "compress",
    data: corpus,
    steps,
    lr: warmupStable(2e-3, { warmup: 0.04 }),
    checkpoint: "pre-anneal",
  }),
  blockDiffusion({
    name: "cpt",
    data: corpus,
    steps: Math.ceil(steps / 2),
    blockSize: 4,
    lr: warmupStable(2e-3, { warmup: 0.04 }),
    noise: clippedLinear(), // section 3.3: at least one masked token a block, weight at most B
    warmup: { steps: Math.ceil(steps / 8) }, // Eq. 10: u_max rises from 0.001 to 1
  }),
  blockDiffusion({
    name: "anneal",
    data: corpus,
    steps: Math.ceil(steps / 4),
    blockSize: 4,
    lr: decayTo(0),
    checkpoint: "final",
  }),
]);

export const out = "runs/quickstart-by-hand";
