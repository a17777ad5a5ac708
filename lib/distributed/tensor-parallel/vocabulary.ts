import { Embedding, functional, Linear, wrapForward } from "../../nn/index.js";
import * as torch from "../../torch/index.js";
import { chunkOf, copyToGroup, gatherFromGroup, reduceFromGroup } from "../differentiable.js";
import { DistributedError } from "../errors.js";
import type { ProcessGroup } from "../process-group.js";
import type { ParallelStyle } from "./parallel-style.js";

type Tensor = torch.Tensor;

/** Which rows of a vocabulary's table a rank holds. */
export interface VocabularyPart {
  group: ProcessGroup;
  /** The table's rows on all ranks together. */
  vocabSize: number;
  /** The first row that this rank holds. */
  vocabStart: number;
}

/** The part that {@link vocabularywise} gives to this rank. */
export function vocabularyPart(vocabSize: number, group: ProcessGroup): VocabularyPart {
  return { group, vocabSize, vocabStart: chunkOf(vocabSize, group.rank, group.size).offset };
}

/**
 * An Embedding, or a Linear that gives logits, whose rows are divided among the ranks, the last with fewer where they do
 * not divide (Megatron-LM's VocabParallelEmbedding). Forwards give what the whole module gives, on all ranks.
 */
export function vocabularywise(): ParallelStyle {
  return {
    prepare(module, { path, group, isInputShared, split }) {
      if (!(module instanceof Embedding || module instanceof Linear)) {
        const message = `'${path}' is a ${module.constructor.name}, and vocabularywise() needs an Embedding or a Linear`;
        throw new DistributedError("DISTRIBUTED_ARGUMENT", `parallelizeModule: ${message}`);
      }
      const vocabSize = module.weight.size(0);
      if (chunkOf(vocabSize, group.size - 1, group.size).size === 0) {
        const message = `'${path}': a vocabulary of ${vocabSize} leaves ranks of ${group.size} without a row`;
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

/** What of a batch of ids another rank holds, and the ids among this rank's rows, 0 where there is none. */
export function localIds(ids: Tensor, rows: number, { vocabSize, vocabStart }: VocabularyPart) {
  const local = ids.sub(vocabStart);
  // Ids outside the vocabulary are nobody's: they stay, and fail as they do with a whole table, on all ranks alike.
  const isKnown = ids.ge(0).logicalAnd(ids.lt(vocabSize));
  const isElsewhere = local.lt(0).logicalOr(local.ge(rows)).logicalAnd(isKnown);
  return { local: local.maskedFill(isElsewhere, 0), isElsewhere };
}

/**
 * functional.embedding of a table whose rows are divided among ranks. The sum over ranks adds zeros to the one row that
 * there is: the result is exact.
 *
 * @param weight [rows of this rank, d]
 * @param ids int64, any shape, the same on all ranks
 */
export function vocabParallelEmbedding(weight: Tensor, ids: Tensor, part: VocabularyPart): Tensor {
  const { local, isElsewhere } = localIds(ids, weight.size(0), part);
  const found = torch.embedding(weight, local).maskedFill(isElsewhere.unsqueeze(-1), 0);
  return reduceFromGroup(found, part.group);
}

/**
 * Logits [..., vocabSize], on all ranks, of hidden states [..., d] that all ranks hold alike.
 *
 * @param weight [rows of this rank, d]
 */
export function vocabParallelLogits(hidden: Tensor, weight: Tensor, { group, vocabSize }: VocabularyPart): Tensor {
  return gatherFromGroup(functional.linear(copyToGroup(hidden, group), weight), -1, group, vocabSize);
}
