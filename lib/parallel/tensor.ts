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
 * (Megatron-LM's tensor parallelism). Norms stay whole, with the same gradients on all ranks. A layer sums two activations
 * over the group in its forward, and two gradients in its backward; where heads have norms, those of their weights, too.
 *
 * The ranks must begin with the same weights and take the same batches. To be called before optimisers are made, and before
 * anything else is wrapped around the model: data parallelism then replicates or shards the parts.
 *
 * `model.headWeight` is an error afterwards; `model.crossEntropy` and `model.logits` give on every rank what they give in
 * one process.
 *
 * @throws DistributedError DISTRIBUTED_ARGUMENT for heads or features that do not divide; the model is then as before
 */
export function tensorParallel(model: Decoder, group: ProcessGroup): TensorParallel {
  checkSizes(model.config, group.size);
  const placements = parallelizeModule(model, group, decoderPlan(model));
  splitHead(model, group);
  return new TensorParallel(placements);
}

/** Where the parameters of a split decoder are. */
export class TensorParallel {
  readonly placements: ParameterPlacements;

  /** For {@link tensorParallel}. */
  constructor(placements: ParameterPlacements) {
    this.placements = placements;
  }

  /** Whether ranks hold parts of the parameter, rather than all the whole. */
  isSplit(name: string): boolean {
    return this.#at(name).placement === "sharded";
  }

  /**
   * How many ranks hold the same part of the parameter as this one: for a sum over the ranks in which each element counts
   * once. More than 1 for what is not split, and for key/value heads where there are fewer than ranks.
   */
  copies(name: string): number {
    return this.#at(name).copies;
  }

  /** Parts of this rank's parts, as data parallelism makes them, as parts of the whole parameters. */
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

/** What is done with each part of a decoder: with its layers, what the architecture says. */
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

/** The decoder's three uses of its head, on this instance. The weight is read anew each time: it may be replaced. */
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
  // Not enumerable: a module's enumerable properties are its parts.
  Object.defineProperties(model, {
    crossEntropy: { value: crossEntropy, configurable: true },
    logits: { value: logits, configurable: true },
    headWeight: { get: headWeight, configurable: true },
  });
}
