import * as z from "zod";
import type { Batch, Metric, Objective, ObjectiveContext } from "../model/objective.js";
import type { Tensor } from "../torch/index.js";
import { blockDiffusionPlan } from "./attention-plan.js";
import { documentsOfRow, paddedRows, resolveMaskId, uploadFloats, uploadIntegers } from "./batch.js";
import { type Corruption, corrupt } from "./corruption.js";
import { DiffusionError, parseOptions } from "./errors.js";
import { noiseSchema } from "./noise.js";
import { advanceWarmup, maxMaskRatio, type WarmupState, warmupSchema } from "./warmup.js";

/** The options of {@link blockDiffusionObjective}, for TypeScript and YAML alike. */
export const blockDiffusionSchema = z.strictObject({
  blockSize: z.number().int().min(1).default(4).describe("number of tokens that are denoised together (B)"),
  noise: noiseSchema.prefault("clipped-linear").describe("noise schedule, u(t) and w(t)"),
  warmup: warmupSchema.optional().describe("mask-ratio warmup (section 3.2); default: none"),
  maskId: z.number().int().min(0).optional().describe("id of the mask token; default: the model's"),
  shift: z.boolean().default(false).describe("predict each token from the position before it, as in the AR stage"),
  weighted: z
    .boolean()
    .default(true)
    .describe("multiply the loss by w(t) (Eq. 4); otherwise it is not a bound of the likelihood"),
  granularity: z
    .enum(["block", "document", "sequence"])
    .default("block")
    .describe("unit that shares one time t: block, document or sequence"),
  timeSampling: z
    .enum(["independent", "antithetic", "low-discrepancy"])
    .default("independent")
    .describe(
      "how the times of a row are drawn: independent, antithetic or low-discrepancy; the last two have less variance",
    ),
  normalizer: z
    .enum(["tokens", "masked"])
    .default("tokens")
    .describe(
      "divisor of the summed loss: all tokens that may be masked (tokens, Eq. 4), or the masked tokens (masked)",
    ),
  crossDocumentAttention: z
    .boolean()
    .optional()
    .describe(
      "whether the documents of a sample attend to each other; default: only if the data keep no document boundaries",
    ),
  headChunkSize: z.number().int().min(1).default(1024).describe("number of rows whose logits are in memory at once"),
});
export type BlockDiffusionSettings = z.output<typeof blockDiffusionSchema>;
export type BlockDiffusionOptions = z.input<typeof blockDiffusionSchema>;

/**
 * Block diffusion (section 3): one forward pass over [x_t ; x_0], in which every block has its own noise level and
 * attends to the clean blocks before it, and the weighted cross-entropy of the masked tokens (Eq. 4).
 *
 * A masked position predicts itself. With `shift` a token is predicted from the position before it, and a document's
 * first token is never masked, see {@link shiftedRows}.
 *
 * If the batch has document boundaries, documents do not attend to each other, unless `crossDocumentAttention` is set,
 * as in the paper's run.
 */
export function blockDiffusionObjective(options: BlockDiffusionOptions = {}): Objective {
  const settings = parseOptions("blockDiffusionObjective", blockDiffusionSchema, options);
  const { blockSize, shift } = settings;

  return (model, batch, context) => {
    const { device, seed, stage } = context;
    const documents = settings.crossDocumentAttention ? undefined : batch.documents;
    const packed = { ...batch, documents };
    const ramp = rampAt(settings, context);
    const maskId = resolveMaskId(model.config, settings.maskId);
    const corruption = corrupt(packed, { ...settings, ...ramp, maskId, seed, stage, keepFirst: shift });

    const wanted = shift ? shiftedRows(packed, corruption.positions, blockSize) : corruption.positions;
    const input = noisyThenClean(batch, corruption.noisy);
    const numRows = paddedRows(corruption.numMasked);
    const padded = [padTo(wanted, numRows), padTo(corruption.targets, numRows)];
    const [ids, rows, targets] = uploadIntegers([input, ...padded], device);
    const weights = uploadFloats(padTo(corruption.weights, numRows), device);

    const wantedRows = { rows, rowIndices: padded[0], cleanQueries: shift };
    const plan = blockDiffusionPlan(batch.seqLen, blockSize, { documents, ...wantedRows, device });
    const hidden = model.forward(ids.view([batch.batch, 2 * batch.seqLen]), plan);
    const { loss, nll } = model.crossEntropy(hidden, targets, {
      rowWeights: weights,
      chunkSize: settings.headChunkSize,
    });

    const normalizer = settings.normalizer === "tokens" ? corruption.numMaskable : corruption.numMasked;
    return { loss, normalizer, metrics: { u_max: ramp.uMax, ...corruptionMetrics(corruption, nll) } };
  };
}

/** Pads with zeros: index 0 refers to row 0, whose padding target has weight zero. */
function padTo<T extends Int32Array | Float32Array>(values: T, length: number): T {
  if (values.length === 0 || values.length === length) return values;
  const padded = new (values.constructor as new (length: number) => T)(length);
  padded.set(values);
  return padded;
}

/**
 * Advances the warmup to this step. During the warmup, weight, clip and forced token follow its own switches (Eq. 10).
 */
function rampAt(settings: BlockDiffusionSettings, context: ObjectiveContext) {
  const { warmup, noise, weighted } = settings;
  const full = { uMax: 1, clip: noise.clip, fallback: noise.fallback, weighted };
  if (!warmup) return full;
  const state = advanceWarmup(warmup, context.state.warmup as WarmupState | undefined, context);
  context.state.warmup = state;
  if (state.progress >= warmup.steps) return full;
  return {
    uMax: maxMaskRatio(warmup, state.progress),
    clip: noise.clip && warmup.clip,
    fallback: noise.fallback && warmup.fallback,
    weighted: weighted && warmup.weighted,
  };
}

/** Concatenates [x_t ; x_0] along each row, [batch, 2 * length]. */
export function noisyThenClean(batch: Batch, noisy: Int32Array): Int32Array {
  const { seqLen, tokens } = batch;
  const input = new Int32Array(2 * tokens.length);
  for (let from = 0; from < tokens.length; from += seqLen) {
    input.set(noisy.subarray(from, from + seqLen), 2 * from);
    input.set(tokens.subarray(from, from + seqLen), 2 * from + seqLen);
  }
  return input;
}

/**
 * The positions from which the shifted variant predicts each token, as flat indices into [batch, 2 * length]. Inside a
 * block it is the noisy position before the token. At the start of a block it is the clean one, because the previous
 * block is complete during sampling; the prediction there is that of the AR model, and for B = 1 the objective is the
 * AR objective.
 */
export function shiftedRows(batch: Batch, positions: Int32Array, blockSize: number): Int32Array {
  const { seqLen } = batch;
  const opensBlock = new Uint8Array(batch.tokens.length);
  for (let row = 0; row < batch.batch; row++) {
    const documents = documentsOfRow(batch, row);
    for (let d = 0; d + 1 < documents.length; d++) {
      for (let i = documents[d]; i < documents[d + 1]; i += blockSize) opensBlock[row * seqLen + i] = 1;
    }
  }
  return positions.map((at) => {
    const row = Math.floor(at / seqLen);
    const half = opensBlock[at] ? seqLen : 0;
    return row * seqLen + at + half - 1;
  });
}

/** Metrics of a corruption: its counts as shares, and the unweighted cross-entropy per masked token. */
function corruptionMetrics(corruption: Corruption, nll: Tensor): Record<string, Metric> {
  const { numMasked, numMaskable, numBlocks, emptyBlocks, fallbackBlocks } = corruption;
  return {
    masked_share: { total: numMasked, count: numMaskable },
    empty_blocks: { total: emptyBlocks, count: numBlocks },
    fallback_blocks: { total: fallbackBlocks, count: numBlocks },
    masked_nll: { total: nll.narrow(0, 0, numMasked).sum(), count: numMasked },
  };
}

/**
 * Supervised fine-tuning: block diffusion in which only answer tokens are masked and contribute to the loss. Prompts
 * stay clean in both halves, so a block with the end of a prompt and the start of an answer is trained as in sampling.
 * The normalizer counts answer tokens. The 1 to 4 end tokens that the data adds after an answer belong to it, so the
 * model learns to end at any position of a block.
 *
 * @throws DiffusionError DIFFUSION_BATCH for a batch without a lossMask, which would silently be trained on as a whole
 */
export function supervisedObjective(options: BlockDiffusionOptions = {}): Objective {
  const objective = blockDiffusionObjective(options);
  return (model, batch, context) => {
    if (!batch.lossMask) {
      throw new DiffusionError("DIFFUSION_BATCH", "supervised fine-tuning needs a lossMask that marks the answers");
    }
    return objective(model, batch, context);
  };
}
