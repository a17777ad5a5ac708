import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { calmOpenMP } from "../worker/start-thread.js";
import type { Scalar } from "./dtype.js";
import { TorchError } from "./errors.js";

/** Index of a tensor in the addon's table; 0 is no tensor. */
export type Handle = number;

export interface NativeArgument {
  name: string;
  kind:
    | "Tensor"
    | "Scalar"
    | "int"
    | "float"
    | "bool"
    | "str"
    | "dtype"
    | "layout"
    | "device"
    | "memory_format"
    | "Generator"
    | "unsupported";
  list: boolean;
  /** The fixed length of a list such as `int[2]`, for which a single number is accepted. */
  length: number | null;
  optional: boolean;
  elementOptional: boolean;
  keywordOnly: boolean;
  hasDefault: boolean;
  /** Whether the operator writes into it. */
  writes: boolean;
}

export interface NativeOverload {
  id: number;
  overload: string;
  schema: string;
  arguments: NativeArgument[];
  /**
   * `name`: "" if the schema has none. `writes`: index of the argument that this result aliases and that is written, or
   * -1.
   */
  returns: { name: string; kind: NativeArgument["kind"]; list: boolean; writes: number }[];
}

/** The functions of the addon, see native/. */
export interface Native {
  scratch: Float64Array;
  fromBytes(data: ArrayBufferView, ndim: number, dtypeCode: number, pinned?: boolean): Handle;
  index(tensor: Handle, count: number): Handle;
  indexPut(tensor: Handle, count: number, value: Handle | Scalar, isTensor: boolean, accumulate: boolean): void;
  readInto(tensor: Handle, target: ArrayBufferView): void;
  readAsync<T extends ArrayBufferView>(tensor: Handle, target: T): Promise<T>;
  item(tensor: Handle): number;
  shape(tensor: Handle): number;
  strides(tensor: Handle): number;
  numel(tensor: Handle): number;
  dtype(tensor: Handle): number;
  device(tensor: Handle): string;
  itemSize(tensor: Handle): number;
  isContiguous(tensor: Handle): boolean;
  storageOffset(tensor: Handle): number;
  isSame(a: Handle, b: Handle): boolean;
  share(tensor: Handle): Handle;
  free(tensor: Handle): boolean;
  freeMany(count: number): void;
  watch(tensor: object, handle: Handle): true | undefined;
  sweep(): number;
  settle(): void;
  watchedBytes(): number;
  memory(): void;
  overloads(name: string): NativeOverload[];
  operatorNames(): string[];
  call(id: number, ...args: unknown[]): unknown;
  customFunction(
    inputs: Handle[],
    outputs: Handle[],
    saved: Handle[],
    backward: (...gradientsAndSaved: (Handle | null)[]) => Handle[],
  ): Handle[];
  backward(tensors: Handle[], gradients: Handle[], retainGraph: boolean | undefined, createGraph: boolean): void;
  grad(
    outputs: Handle[],
    inputs: Handle[],
    gradients: Handle[],
    retainGraph: boolean | undefined,
    createGraph: boolean,
    allowUnused: boolean,
  ): (Handle | null)[];
  serveBackward(always: boolean): void;
  requiresGrad(tensor: Handle): boolean;
  setRequiresGrad(tensor: Handle, value: boolean): void;
  isLeaf(tensor: Handle): boolean;
  retainGrad(tensor: Handle): void;
  getGrad(tensor: Handle): Handle | null;
  setGrad(tensor: Handle, gradient: Handle): void;
  gradFunctionName(tensor: Handle): string | null;
  version(tensor: Handle): number;
  isGradEnabled(): boolean;
  setGradEnabled(enabled: boolean): void;
  enterInferenceMode(): void;
  leaveInferenceMode(): void;
  enterAutocast(device: string, enabled: boolean, dtypeCode: number): { enabled: boolean; dtype: number };
  leaveAutocast(device: string, enabled: boolean, dtypeCode: number): void;
  createGenerator(device: string, seed: number | bigint): number;
  freeGenerator(generator: number): boolean;
  seedGenerator(generator: number, seed: number | bigint): void;
  generatorState(generator: number): Handle;
  setGeneratorState(generator: number, state: Handle): void;
  manualSeed(seed: number | bigint): void;
  readFile(descriptor: number, offset: number, dtypeCode: number, ndim: number): Handle;
  build(): { torch: string; cuda: boolean; cpuCapability: string; config: string };
  getNumThreads(): number;
  setNumThreads(threads: number): void;
  setDeterministic(on: boolean): void;
  setFloat32MatmulPrecision(precision: "highest" | "high" | "medium"): void;
  cudaDeviceCount(): number;
  cudaSynchronize(index: number): void;
  cudaSetDevice(index: number): void;
  cudaCurrentDevice(): number;
  cudaEmptyCache(): void;
  cudaMemoryStats(index: number): Record<string, number>;
  cudaResetPeakStats(index: number): void;
  cudaDeviceProperties(index: number): Record<string, number | string>;
  cudaGraphPool(): number;
  cudaGraphCreate(device: number, pool: number): number;
  cudaGraphWarmUp(graph: number, run: () => void): void;
  cudaGraphCapture(graph: number, run: () => void): void;
  cudaGraphReplay(graph: number): void;
  cudaGraphFree(graph: number): boolean;
}

/** The root of the package: the nearest folder above this file with the addon's CMakeLists.txt. */
function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "CMakeLists.txt")) && dirname(folder) !== folder) folder = dirname(folder);
  return folder;
}

/** Path of the addon. */
export function addonPath(): string {
  return resolve(process.env.DIFFCODER_ADDON ?? join(packageRoot(), "build", "Release", "diffcoder.node"));
}

function load(): Native {
  const path = addonPath();
  if (!existsSync(path)) {
    throw new TorchError(
      "TORCH_LOAD",
      `The native addon is not built (${path} does not exist).\n` +
        "Run `npm run setup` in the package's folder to build it, `npx diffcoder doctor` to see what is missing.",
    );
  }
  calmOpenMP();
  try {
    return createRequire(import.meta.url)(path) as Native;
  } catch (cause) {
    throw new TorchError(
      "TORCH_LOAD",
      `The native addon ${path} cannot be loaded: ${(cause as Error).message}\n` +
        "Was libtorch moved or updated since the addon was built? `npm run setup` rebuilds it, `npx diffcoder doctor` explains.",
      { cause },
    );
  }
}

export const native: Native = load();
