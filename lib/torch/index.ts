/**
 * Tensors on libtorch: `import * as torch from "stable-diffcoder/torch"`. Functions have PyTorch's names in camelCase
 * and its positional arguments; keyword-only arguments are passed in a last object.
 */
import "./methods.js";

export type { AutocastOptions, GradOptions } from "./autograd.js";
export {
  autocast,
  backward,
  currentAutocast,
  enableGrad,
  grad,
  inferenceMode,
  isGradEnabled,
  noGrad,
} from "./autograd.js";
export type { TensorOptions } from "./creation.js";
export {
  arange,
  empty,
  emptyLike,
  eye,
  fromTypedArray,
  full,
  fullLike,
  linspace,
  ones,
  onesLike,
  rand,
  randint,
  randLike,
  randn,
  randnLike,
  randperm,
  tensor,
  zeros,
  zerosLike,
} from "./creation.js";
export type { CUDAGraph, CUDAGraphOptions } from "./cuda-graph.js";
export type { DifferentiableFunction, FunctionContext } from "./custom-function.js";
export { defineFunction } from "./custom-function.js";
export type { Build, CudaMemoryStats, Memory } from "./devices.js";
export {
  build,
  cuda,
  getNumThreads,
  memory,
  setFloat32MatmulPrecision,
  setNumThreads,
  useDeterministicAlgorithms,
} from "./devices.js";
export type { DType, DTypeLike, Layout, MemoryFormat, Scalar, TypedArray } from "./dtype.js";
export { toDType } from "./dtype.js";
export { TorchError, type TorchErrorCode, torchErrorCodes } from "./errors.js";
export * as fft from "./generated/fft.js";
export * from "./generated/functions.js";
export * as linalg from "./generated/linalg.js";
export * as special from "./generated/special.js";
export { Generator, manualSeed } from "./generator.js";
export type { Index } from "./indexing.js";
export { Slice, slice } from "./indexing.js";
export type { DispatcherFunction, OperatorNamespace } from "./ops.js";
export { operatorNames, ops } from "./ops.js";
export { Philox } from "./philox.js";
export { type StftOptions, stft, type UniqueOptions, unique, uniqueConsecutive, where } from "./python-functions.js";
export { openSafetensors, SafetensorsFile, saveSafetensors, type TensorInfo } from "./safetensors.js";
export { keep, openScope, type Scope, scope } from "./scope.js";
export { type NestedNumbers, Tensor, type ToOptions } from "./tensor.js";
export type { TensorData } from "./tensor-data.js";
export { type TensorTree, tensorTree } from "./tree.js";
