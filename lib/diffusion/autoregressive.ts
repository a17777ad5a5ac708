import * as z from "zod";
import { causalPlan } from "../model/attention-plan.js";
import type { Batch, Objective } from "../model/objective.js";
import { batchOptions, checkBatch, documentStarts, uploadIntegers } from "./batch.js";
import { parseOptions } from "./errors.js";

/** The options of {@link autoregressiveObjective}, for TypeScript and YAML alike. */
export const autoregressiveSchema = z.strictObject(batchOptions);
export type AutoregressiveOptions = z.input<typeof autoregressiveSchema>;

/**
 * Next-token prediction (Eq. 2), the objective of the AR stages: the hidden state of position i - 1 predicts token i,
 * with the same head that diffusion later uses unshifted. The first token of a row, or of an isolated document, is not
 * a target, because nothing precedes it. With a lossMask only answer tokens are targets.
 *
 * The normalizer is the number of targets.
 */
export function autoregressiveObjective(options: AutoregressiveOptions = {}): Objective {
  const settings = parseOptions("autoregressiveObjective", autoregressiveSchema, options);
  return (model, batch, { device }) => {
    const documents = settings.crossDocumentAttention ? undefined : batch.documents;
    const positions = nextTokenTargets({ ...batch, documents });
    const rowIndices = positions.map((i) => i - 1);
    const [ids, rows, targets] = uploadIntegers(
      [batch.tokens, rowIndices, positions.map((i) => batch.tokens[i])],
      device,
    );
    const plan = causalPlan(batch.seqLen, { documents, rows, rowIndices, device });
    const hidden = model.forward(ids.view([batch.batch, batch.seqLen]), plan);
    const { loss } = model.crossEntropy(hidden, targets, { chunkSize: settings.headChunkSize });
    return { loss, normalizer: positions.length, metrics: {} };
  };
}

/** Flat indices of the targets: tokens with a predecessor in their document, and with the loss mask set. */
export function nextTokenTargets(batch: Batch): Int32Array {
  checkBatch(batch);
  const { lossMask, tokens } = batch;
  const starts = documentStarts(batch);
  const targets = new Int32Array(tokens.length);
  let count = 0;
  for (let i = 0; i < tokens.length; i++) {
    if (!starts[i] && (!lossMask || lossMask[i])) targets[count++] = i;
  }
  return targets.slice(0, count);
}
