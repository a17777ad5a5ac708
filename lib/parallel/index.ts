/** How a decoder lies over the processes of a run: replicated, sharded, by context, by tensors, and all of them together. */
export * from "./context/index.js";
export { type ParallelOptions, type ParallelSettings, parallelSchema } from "./options.js";
export { type MeshDimension, type MeshShape, meshShape, ParallelModel, shareOf } from "./parallel-model.js";
export { TensorParallel, tensorParallel } from "./tensor.js";
