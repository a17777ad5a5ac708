export type { ParallelStyle, Share, StyleContext } from "./parallel-style.js";
export type { ParameterPlacement, ParameterPlacements } from "./parallelize-module.js";
export { composeSlices, type ParallelPlan, parallelizeModule } from "./parallelize-module.js";
export { columnwise, type FeatureUnits, partialGradient, rowwise, sharedInput } from "./styles.js";
export { type VocabParallelCrossEntropyOptions, vocabParallelCrossEntropy } from "./vocab-parallel-cross-entropy.js";
export {
  type VocabularyPart,
  vocabParallelEmbedding,
  vocabParallelLogits,
  vocabularyPart,
  vocabularywise,
} from "./vocabulary.js";
