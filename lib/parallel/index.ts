/**
 * Distribution of a decoder over the processes of a run: replicated, sharded, context and tensor parallelism, and their
 * combinations.
 */
export * from "./context/index.js";
export { type ParallelOptions, type ParallelSettings, parallelSchema } from "./options.js";
export { type MeshDimension, type MeshShape, meshShape, ParallelModel, shareOf } from "./parallel-model.js";
export { TensorParallel, tensorParallel } from "./tensor.js";
