import { Embedding, functional, Linear, wrapForward } from "../../nn/index.js";
import * as torch from "../../torch/index.js";
import { chunkOf, copyToGroup, gatherFromGroup, reduceFromGroup } from "../differentiable.js";
import { DistributedError } from "../errors.js";
import type { ProcessGroup } from "../process-group.js";
import type { ParallelStyle } from "./parallel-style.js";

type Tensor = torch.Tensor;

/** The rows of a vocabulary's table that a rank holds. */
export interface VocabularyPart {
  group: ProcessGroup;
  /** Number of rows of the table over all ranks. */
  vocabSize: number;
  /** Index of the first row on this rank. */
  vocabStart: number;
}

/** This rank's part under {@link vocabularywise}. */
export function vocabularyPart(vocabSize: number, group: ProcessGroup): VocabularyPart {
  return { group, vocabSize, vocabStart: chunkOf(vocabSize, group.rank, group.size).offset };
}

/**
 * An Embedding, or a Linear that computes logits, whose rows are split over the ranks; the last rank may have fewer
 * (Megatron-LM's VocabParallelEmbedding). The forward pass returns the full result on all ranks.
 */
export function vocabularywise(): ParallelStyle {
  return {
    prepare(module, { path, group, isInputShared, split }) {
      if (!(module instanceof Embedding || module instanceof Linear)) {
        const message = `'${path}' is a ${module.constructor.name}, but vocabularywise() needs an Embedding or a Linear`;
        throw new DistributedError("DISTRIBUTED_ARGUMENT", `parallelizeModule: ${message}`);
      }
      const vocabSize = module.weight.size(0);
      if (chunkOf(vocabSize, group.size - 1, group.size).size === 0) {
        const message = `'${path}': a vocabulary of ${vocabSize} is too small: some of ${group.size} ranks would have no row`;
        throw new DistributedError("DISTRIBUTED_ARGUMENT", `parallelizeModule: ${message}`);
      }
      const share = { dim: 0, ...chunkOf(vocabSize, group.rank, group.size) };
      split(module.weight, share);
      const part = vocabularyPart(vocabSize, group);
      if (module instanceof Embedding) {
        return () => {
          wrapForward(module, () => (ids) => vocabParallelEmbedding(module.weight, ids, part));
        };
      }
      if (module.bias) split(module.bias, share);
      return () => {
        wrapForward(module, () => (x) => {
          const input = isInputShared ? x : copyToGroup(x, group);
          return gatherFromGroup(functional.linear(input, module.weight, module.bias), -1, group, vocabSize);
        });
      };
    },
  };
}

/** A mask of the ids that other ranks hold, and the ids relative to this rank's rows (0 for ids of other ranks). */
export function localIds(ids: Tensor, rows: number, { vocabSize, vocabStart }: VocabularyPart) {
  const local = ids.sub(vocabStart);
  // Ids outside the vocabulary are unchanged, so that they fail on all ranks as with a whole table.
  const isKnown = ids.ge(0).logicalAnd(ids.lt(vocabSize));
  const isElsewhere = local.lt(0).logicalOr(local.ge(rows)).logicalAnd(isKnown);
  return { local: local.maskedFill(isElsewhere, 0), isElsewhere };
}

/**
 * functional.embedding of a table whose rows are split over ranks. The sum over ranks adds only zeros to the single
 * non-zero row, so the result is exact.
 *
 * @param weight [rows of this rank, d]
 * @param ids int64, any shape, equal on all ranks
 */
export function vocabParallelEmbedding(weight: Tensor, ids: Tensor, part: VocabularyPart): Tensor {
  const { local, isElsewhere } = localIds(ids, weight.size(0), part);
  const found = torch.embedding(weight, local).maskedFill(isElsewhere.unsqueeze(-1), 0);
  return reduceFromGroup(found, part.group);
}

/**
 * Logits [..., vocabSize], on all ranks, of replicated hidden states [..., d].
 *
 * @param weight [rows of this rank, d]
 */
export function vocabParallelLogits(hidden: Tensor, weight: Tensor, { group, vocabSize }: VocabularyPart): Tensor {
  return gatherFromGroup(functional.linear(copyToGroup(hidden, group), weight), -1, group, vocabSize);
}
