import * as z from "zod";
import type { Batch, Objective } from "../model/objective.js";
import { blockDiffusionPlan } from "./attention-plan.js";
import { documentsOfRow } from "./batch.js";
import { DiffusionError, parseOptions } from "./errors.js";
import { lossOptions, maskedDiffusion, maskingOptions } from "./masked-diffusion.js";

/** The options of {@link blockDiffusionObjective}, for TypeScript and YAML alike. */
export const blockDiffusionSchema = z.strictObject({
  blockSize: z.number().int().min(1).default(4).describe("number of tokens that are denoised together (B)"),
  ...maskingOptions,
  granularity: z
    .enum(["block", "document", "sequence"])
    .default("block")
    .describe("unit that shares one time t: block, document or sequence"),
  ...lossOptions,
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
  const { blockSize, granularity, shift } = settings;
  return maskedDiffusion(settings, {
    units: () => ({ blockSize, granularity }),
    ids: noisyThenClean,
    rows: (batch, positions) => (shift ? shiftedRows(batch, positions, blockSize) : positions),
    plan: ({ seqLen, documents }, selected) =>
      blockDiffusionPlan(seqLen, blockSize, { documents, ...selected, cleanQueries: shift }),
  });
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
