// A curriculum with a custom objective, noise schedule and learning rate. All three are plain functions that replace the
// built-in ones.
//
//   npx diffcoder train examples/custom-curriculum.ts
import {
  type AttentionPlan,
  autoregressive,
  blockDiffusion,
  Curriculum,
  type CurriculumFileContext,
  corrupt,
  customNoise,
  type Objective,
  prepareData,
  type Schedule,
  StableDiffCoder,
  stage,
  Tokenizer,
  torch,
} from "stable-diffcoder";

const steps = Number(process.env.STEPS ?? 900);
const tokenizer = Tokenizer.fromPretrained("diffcoder/code-4k");
const paths = process.env.DATA ? [process.env.DATA] : ("default" as const);
const data = await prepareData({ paths, seqLen: 256 }, tokenizer);

/** Noise: u(t) is the chance that a token is masked at time t in [0, 1]. With a squared u(t), few tokens are masked most of the time. */
const squared = customNoise("squared", (t) => t * t, { clip: true, fallback: true });

/** Learning rate of step 0, 1, ...: a triangle. */
const triangle: Schedule = (step, { steps }) => 2e-3 * Math.max(0.05, 1 - Math.abs((2 * step) / steps - 1));

/** Objective: one noise level for a whole row, and every token attends to all others. The paper's optional last step (section 3.1). */
const bidirectional: Objective = (model, batch, { seed, stage, device }) => {
  const { batch: rows, seqLen } = batch;
  const maskId = tokenizer.require("mask");
  // Computed on the host from (seed, stage, sample) alone, so that a run can be repeated and resumed.
  const noised = corrupt(batch, { blockSize: seqLen, noise: squared, maskId, seed, stage, granularity: "sequence" });
  const upload = (ids: Int32Array) => torch.tensor(ids, { device, dtype: "int64" });
  const plan: AttentionPlan = {
    positions: torch.arange(seqLen, { device }),
    end: seqLen,
    attend: (_layer, ...qkv) => {
      const [q, k, v] = qkv.map((x) => x.transpose(1, 2)); // [b, s, h, d] -> [b, h, s, d]
      return torch.scaledDotProductAttention(q, k, v, null, 0, false, { enableGqa: true }).transpose(1, 2);
    },
    lastLayer: { rows: upload(noised.positions) }, // only masked tokens need the head
  };
  const hidden = model.forward(upload(noised.noisy).view([rows, seqLen]), plan);
  const rowWeights = torch.tensor(noised.weights, { device });
  const options = { rowWeights, chunkSize: 1024 };
  const { loss } = model.crossEntropy(hidden, upload(noised.targets), options);
  // The sum and its divisor, so that micro-batches and ranks can be added.
  return { loss, normalizer: rows * seqLen, metrics: { masked_share: noised.numMasked / (rows * seqLen) } };
};

const third = { data, globalBatchSize: 8, steps: Math.ceil(steps / 3) };
export const curriculum = new Curriculum([
  autoregressive({ ...third, name: "left-to-right", lr: triangle }),
  blockDiffusion({ ...third, name: "blocks", lr: triangle, noise: squared, warmup: { steps: Math.ceil(steps / 12) } }),
  stage({ ...third, name: "bidirectional", lr: triangle, objective: bidirectional }),
]);
export const model = ({ device, seed }: CurriculumFileContext) =>
  StableDiffCoder.fromConfig("tiny", { tokenizer, device, seed });
