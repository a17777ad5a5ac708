import * as z from "zod";
import { causalPlan } from "../model/attention-plan.js";
import type { Batch, Objective } from "../model/objective.js";
import { bidirectionalPlan } from "./attention-plan.js";
import type { CorruptionOptions, Granularity } from "./corruption.js";
import { parseOptions } from "./errors.js";
import { lossOptions, maskedDiffusion, maskingOptions } from "./masked-diffusion.js";
import { noiseSchema } from "./noise.js";

/** Options of diffusion over whole documents, which has no blocks. */
const wholeDocumentOptions = {
  ...maskingOptions,
  // LLaDA's: a document may have thousands of tokens, so the clip 1/B alone would allow weights that large.
  noise: noiseSchema.prefault({ name: "linear", epsilon: 1e-3 }).describe("noise schedule, u(t) and w(t)"),
  granularity: z
    .enum(["document", "sequence"])
    .default("document")
    .describe("unit that shares one time t: document or sequence"),
  ...lossOptions,
};

/** The options of {@link bidirectionalObjective}, for TypeScript and YAML alike. */
export const bidirectionalSchema = z.strictObject(wholeDocumentOptions);
export type BidirectionalSettings = z.output<typeof bidirectionalSchema>;
export type BidirectionalOptions = z.input<typeof bidirectionalSchema>;

/**
 * Masked diffusion over whole documents with full bidirectional attention (the paper's BiDLLM; LLaDA, Dream): a masked
 * token is predicted from all other tokens of its document, before and after it, some of which are masked, too. The
 * decoder runs over x_t alone, one position per token, and the loss is Eq. 4 with one time t per document.
 *
 * A masked position predicts itself (LLaDA). With `shift` a token is predicted from the position before it (Dream), and
 * a document's first token is never masked.
 *
 * A row is one document if the batch has no document boundaries, or `crossDocumentAttention` is set. With a lossMask
 * only answer tokens are masked.
 */
export function bidirectionalObjective(options: BidirectionalOptions = {}): Objective {
  const settings = parseOptions("bidirectionalObjective", bidirectionalSchema, options);
  return documentDiffusion(settings, bidirectionalPlan);
}

/** The options of {@link causalDiffusionObjective}, for TypeScript and YAML alike. */
export const causalDiffusionSchema = z.strictObject(wholeDocumentOptions);
export type CausalDiffusionSettings = z.output<typeof causalDiffusionSchema>;
export type CausalDiffusionOptions = z.input<typeof causalDiffusionSchema>;

/**
 * Diffusion with the structure of an AR model (the paper's ARDLLM): causal attention with the masking and the loss of
 * diffusion. A masked token is predicted from its prefix, in which other tokens are masked; no position attends to a
 * later one. The decoder runs over x_t alone, one position per token, and the loss is Eq. 4 with one time t per
 * document.
 *
 * A masked position predicts itself. With `shift` a token is predicted from the position before it, as in the AR stage,
 * and a document's first token is never masked.
 *
 * Documents, `crossDocumentAttention` and lossMask are as in {@link bidirectionalObjective}.
 */
export function causalDiffusionObjective(options: CausalDiffusionOptions = {}): Objective {
  const settings = parseOptions("causalDiffusionObjective", causalDiffusionSchema, options);
  return documentDiffusion(settings, causalPlan);
}

/** @param planOf the attention over x_t */
function documentDiffusion(
  settings: BidirectionalSettings,
  planOf: typeof bidirectionalPlan | typeof causalPlan,
): Objective {
  const { granularity, shift } = settings;
  return maskedDiffusion(settings, {
    units: (batch) => wholeDocuments(batch, granularity),
    ids: (_, noisy) => noisy,
    rows: (_, positions) => predictors(positions, shift),
    plan: ({ seqLen, documents }, selected) => planOf(seqLen, { documents, ...selected }),
  });
}

/**
 * Documents as the blocks of a corruption. If a row is one document, its time is that of the row, so that `timeSampling`
 * relates the times of different rows.
 */
function wholeDocuments(
  { seqLen, documents }: Batch,
  granularity: Granularity,
): Pick<CorruptionOptions, "blockSize" | "granularity"> {
  return { blockSize: seqLen, granularity: documents ? granularity : "sequence" };
}

/** The positions whose hidden states predict the tokens at `positions`, as flat indices into [batch, length]. */
function predictors(positions: Int32Array, shift: boolean): Int32Array {
  return shift ? positions.map((at) => at - 1) : positions;
}
