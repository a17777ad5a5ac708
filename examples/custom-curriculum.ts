// A curriculum with an objective and a noise schedule of one's own. Nothing in the trainer knows the built-in ones by
// name: a stage takes any function (model, batch, context) => { loss, normalizer, metrics }. Run it with
//   npx diffcoder train examples/custom-curriculum.ts
import {
  autoregressiveObjective,
  blockDiffusion,
  blockDiffusionObjective,
  Curriculum,
  customNoise,
  decayTo,
  prepareData,
  StableDiffCoder,
  type StageObjective,
  stage,
  Tokenizer,
  warmupStable,
} from "stable-diffcoder";

const steps = Number(process.env.STEPS ?? 400);
const tokenizer = Tokenizer.fromPretrained("assets/tokenizer");
const corpus = await prepareData({ length: 256, ...(process.env.DATA && { paths: [process.env.DATA] }) }, tokenizer);

// A noise schedule is u(t), the chance that a token is masked at time t. This one spends more time on few masks. The
// weight u'(t) / u(t) follows, so that the loss stays the ELBO; `weight` would replace it.
const gentle = customNoise("square", (t) => t * t);

// An objective: AR and diffusion on the same batch, as some hybrid models are trained. Losses are *sums* over the
// micro-batch; the trainer divides by the normalizers of the whole step, so accumulation and ranks change nothing.
const nextToken = autoregressiveObjective();
const denoise = blockDiffusionObjective({ blockSize: 4, noise: gentle });
const hybrid: StageObjective = (model, batch, context) => {
  const ar = nextToken(model, batch, context);
  const diffusion = denoise(model, batch, context);
  const share = context.step / context.steps; // from AR to diffusion over the stage
  return {
    loss: ar.loss
      .mul((1 - share) / ar.normalizer)
      .add(diffusion.loss.mul(share / diffusion.normalizer))
      .mul(batch.batch),
    normalizer: batch.batch,
    metrics: { share, ...diffusion.metrics },
  };
};

export const model = StableDiffCoder.fromConfig("tiny", { tokenizer, seed: 1 });

export const curriculum = new Curriculum([
  stage({
    name: "hybrid",
    data: corpus,
    steps,
    objective: hybrid,
    lr: warmupStable(2e-3, { warmup: 0.04 }),
    positionsPerToken: 3,
  }),
  blockDiffusion({
    name: "anneal",
    data: corpus,
    steps: Math.ceil(steps / 4),
    noise: gentle,
    lr: decayTo(0),
    checkpoint: "final",
  }),
]);
