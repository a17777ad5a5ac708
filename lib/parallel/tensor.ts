import { DistributedError, type LocalTensor, type ProcessGroup } from "../distributed/index.js";
import {
  columnwise,
  composeSlices,
  type ParallelPlan,
  type ParallelStyle,
  type ParameterPlacement,
  type ParameterPlacements,
  parallelizeModule,
  partialGradient,
  rowwise,
  sharedInput,
  vocabParallelCrossEntropy,
  vocabParallelLogits,
  vocabularyPart,
  vocabularywise,
} from "../distributed/tensor-parallel/index.js";
import { architectureSpec, type Decoder, type DecoderConfig, type LayerCut } from "../model/index.js";
import type { Tensor } from "../torch/index.js";

/**
 * Splits a decoder's matrices over a group, by whole attention heads, feed-forward features and rows of the vocabulary
 * (Megatron-LM's tensor parallelism). Norms are replicated, with equal gradients on all ranks. A layer sums two
 * activations over the group in its forward pass and two gradients in its backward pass, plus the gradients of the
 * heads' norms if there are any.
 *
 * All ranks must start with the same weights and use the same batches. Call it before creating optimizers and before
 * any other wrapper: data parallelism then replicates or shards the parts.
 *
 * Afterwards `model.headWeight` throws, and `model.crossEntropy` and `model.logits` return the full result on every
 * rank.
 *
 * @throws DistributedError DISTRIBUTED_ARGUMENT for heads or features that are not divisible; the model is then
 *   unchanged
 */
export function tensorParallel(model: Decoder, group: ProcessGroup): TensorParallel {
  checkSizes(model.config, group.size);
  const placements = parallelizeModule(model, group, decoderPlan(model));
  splitHead(model, group);
  return new TensorParallel(placements);
}

/** Placements of the parameters of a split decoder. */
export class TensorParallel {
  readonly placements: ParameterPlacements;

  /** Used by {@link tensorParallel}. */
  constructor(placements: ParameterPlacements) {
    this.placements = placements;
  }

  /** Whether the parameter is split over ranks. */
  isSplit(name: string): boolean {
    return this.#at(name).placement === "sharded";
  }

  /**
   * Number of ranks with the same part of the parameter as this one, for sums over ranks in which each element counts
   * once. It is more than 1 for replicated parameters, and for key/value heads if there are fewer of them than ranks.
   */
  copies(name: string): number {
    return this.#at(name).copies;
  }

  /** Converts parts of this rank's parts, from data parallelism, to parts of the whole parameters. */
  compose(parts: readonly LocalTensor[]): LocalTensor[] {
    return parts.map((part) => {
      const { slice, owned } = this.#at(part.name);
      return { ...part, slice: composeSlices(slice, part.slice), owned: part.owned && owned };
    });
  }

  #at(name: string): ParameterPlacement {
    const placement = this.placements.get(name);
    if (placement) return placement;
    throw new DistributedError("DISTRIBUTED_ARGUMENT", `the split model has no parameter '${name}'`);
  }
}

/** The plan for each module of a decoder; that of its layers comes from the architecture. */
export function decoderPlan({ config, lmHead }: Decoder): ParallelPlan {
  const { layerCuts } = architectureSpec(config.architecture);
  const styles = layerStyles(config);
  return {
    embedTokens: vocabularywise(),
    ...Object.fromEntries(Object.entries(layerCuts).map(([path, cut]) => [`layers.*.${path}`, styles[cut]])),
    ...(lmHead && { lmHead: vocabularywise() }),
  };
}

function layerStyles({ headDim }: DecoderConfig): Record<LayerCut, ParallelStyle> {
  const heads = { unit: headDim, unitName: "attention heads" };
  return {
    sharedInput: sharedInput(),
    heads: columnwise(heads),
    keyValueHeads: columnwise({ unit: headDim, unitName: "key/value heads", replicate: true }),
    headInputs: rowwise(heads),
    features: columnwise(),
    featureInputs: rowwise(),
    partialGradient: partialGradient(),
  };
}

function checkSizes({ numHeads, numKeyValueHeads, intermediateSize }: DecoderConfig, ranks: number): void {
  const wrong = (message: string) => new DistributedError("DISTRIBUTED_ARGUMENT", `tensorParallel: ${message}`);
  if (numHeads % ranks !== 0) throw wrong(`numHeads ${numHeads} is not divisible by ${ranks} tensor-parallel ranks`);
  if (numKeyValueHeads % ranks !== 0 && ranks % numKeyValueHeads !== 0) {
    throw wrong(`numKeyValueHeads ${numKeyValueHeads} and ${ranks} tensor-parallel ranks do not divide each other`);
  }
  if (intermediateSize % ranks !== 0) {
    throw wrong(`intermediateSize ${intermediateSize} is not divisible by ${ranks} tensor-parallel ranks`);
  }
}

/**
 * Replaces the decoder's three methods that use its head, on this instance. The weight is read on every call, because
 * it may be replaced.
 */
function splitHead(model: Decoder, group: ProcessGroup): void {
  const part = vocabularyPart(model.config.vocabSize, group);
  const weight = () => (model.lmHead ?? model.embedTokens).weight;
  const crossEntropy = (hidden: Tensor, targets: Tensor, options: { rowWeights?: Tensor; chunkSize?: number } = {}) =>
    vocabParallelCrossEntropy(hidden, weight(), targets, { ...options, ...part });
  const logits: Decoder["logits"] = (hidden) => vocabParallelLogits(hidden, weight(), part);
  const headWeight = () => {
    const remedy = "use model.crossEntropy or model.logits";
    throw new DistributedError("DISTRIBUTED_STATE", `the head is split over ranks: ${remedy}`);
  };
  // Not enumerable, because a module's enumerable properties are its parameters and submodules.
  Object.defineProperties(model, {
    crossEntropy: { value: crossEntropy, configurable: true },
    logits: { value: logits, configurable: true },
    headWeight: { get: headWeight, configurable: true },
  });
}
