import { collectedTensors } from "./collector.js";
import { CUDAGraph, graphPoolHandle } from "./cuda-graph.js";
import { guard } from "./errors.js";
import { native } from "./native.js";

/** Live tensors, and the bytes of their storages (shared storages count once). */
export interface Memory {
  tensors: number;
  /** Bytes on the CPU. */
  host: number;
  /** Bytes on accelerators. */
  device: number;
  /**
   * Number of tensors of this thread that were neither in a scope nor disposed of, so that the garbage collector freed
   * them.
   */
  collected: number;
}

/** Counts live tensors and their memory. The count must not grow from one training step to the next. */
export function memory(): Memory {
  native.memory();
  const [tensors, host, device] = native.scratch;
  return { tensors, host, device, collected: collectedTensors() };
}

export interface Build {
  /** The version of libtorch. */
  torch: string;
  /** Whether the addon was built with CUDA. */
  cuda: boolean;
  /** The instruction set that libtorch's kernels use: "AVX512", "AVX2", "DEFAULT", … */
  cpuCapability: string;
  /** torch.__config__.show(). */
  config: string;
}

export function build(): Build {
  return native.build();
}

/** Number of threads per operator: torch.get_num_threads. */
export function getNumThreads(): number {
  return native.getNumThreads();
}

export function setNumThreads(threads: number): void {
  guard("setNumThreads", () => native.setNumThreads(threads));
}

/** Makes operators without a deterministic implementation throw: torch.use_deterministic_algorithms. */
export function useDeterministicAlgorithms(on: boolean): void {
  native.setDeterministic(on);
}

/** torch.set_float32_matmul_precision: "highest", "high" (TF32) or "medium" (bfloat16). */
export function setFloat32MatmulPrecision(precision: "highest" | "high" | "medium"): void {
  guard("setFloat32MatmulPrecision", () => native.setFloat32MatmulPrecision(precision));
}

export interface CudaMemoryStats {
  allocated: number;
  reserved: number;
  peakAllocated: number;
  peakReserved: number;
  free: number;
  total: number;
  allocationRetries: number;
  outOfMemory: number;
}

/**
 * torch.cuda. Without a device every function but `isAvailable`, `deviceCount` and `emptyCache` throws
 * TORCH_CUDA_UNAVAILABLE.
 */
export const cuda = {
  isAvailable: (): boolean => native.cudaDeviceCount() > 0,
  deviceCount: (): number => native.cudaDeviceCount(),
  currentDevice: (): number => guard("cuda.currentDevice", () => native.cudaCurrentDevice()),
  setDevice: (index: number): void => guard("cuda.setDevice", () => native.cudaSetDevice(index)),
  /** Waits for all work on the device. */
  synchronize: (index = 0): void => guard("cuda.synchronize", () => native.cudaSynchronize(index)),
  /** Releases cached memory to the driver. */
  emptyCache: (): void => native.cudaEmptyCache(),
  /** Statistics of the caching allocator and the driver, in bytes. */
  memoryStats: (index = 0): CudaMemoryStats =>
    guard("cuda.memoryStats", () => native.cudaMemoryStats(index) as unknown as CudaMemoryStats),
  resetPeakMemoryStats: (index = 0): void => guard("cuda.resetPeakMemoryStats", () => native.cudaResetPeakStats(index)),
  deviceProperties: (index = 0): Record<string, number | string> =>
    guard("cuda.deviceProperties", () => native.cudaDeviceProperties(index)),
  CUDAGraph,
  graphPoolHandle,
};
