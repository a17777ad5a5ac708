export { composeSlices } from "./compose-slices.js";
export type { ParallelStyle, Share, StyleContext } from "./parallel-style.js";
export { type ParallelPlan, parallelizeModule } from "./parallelize-module.js";
export type { ParameterPlacement, ParameterPlacements } from "./placement.js";
export { columnwise, type FeatureUnits, partialGradient, rowwise, sharedInput } from "./styles.js";
export { type VocabParallelCrossEntropyOptions, vocabParallelCrossEntropy } from "./vocab-parallel-cross-entropy.js";
export {
  type VocabularyPart,
  vocabParallelEmbedding,
  vocabParallelLogits,
  vocabularyPart,
  vocabularywise,
} from "./vocabulary.js";
