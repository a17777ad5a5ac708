import { allocate, type DType, type DTypeLike, dtypeOf, dtypes, type TypedArray, toDType } from "./dtype.js";
import { guard, TorchError } from "./errors.js";
import type { Generator } from "./generator.js";
import { native } from "./native.js";
import { operatorFunction } from "./operator-function.js";
import type { Scalar } from "./scalar.js";
import { Tensor } from "./tensor.js";

/** Where and as what a tensor is made. */
export interface TensorOptions {
  /** Default "float32". */
  dtype?: DTypeLike;
  /** "cpu" (default), "cuda", "cuda:1". */
  device?: string;
  requiresGrad?: boolean;
  /** Page-locked host memory, from which copies to a device are asynchronous. */
  pinMemory?: boolean;
}

export type TensorData = number | boolean | bigint | TypedArray | readonly TensorData[];

/** Copies a typed array into a tensor of the given shape. The dtype is the array's own, unless `dtype` asks for a conversion. */
export function fromTypedArray(data: TypedArray, shape: readonly number[] = [data.length], options: TensorOptions = {}): Tensor {
  return finish(upload(data, shape, dtypeOf(data), options.pinMemory), options, dtypeOf(data));
}

function upload(data: ArrayBufferView, shape: readonly number[], dtype: DType, pinned = false): Tensor {
  for (const [i, size] of shape.entries()) {
    if (!Number.isInteger(size) || size < 0)
      throw new TorchError("TORCH_VALUE", `tensor: size ${size} of dimension ${i}: sizes are integers from 0`);
    native.scratch[i] = size;
  }
  return guard("tensor", () => new Tensor(native.fromBytes(data, shape.length, dtype, pinned)));
}

function finish(tensor: Tensor, options: TensorOptions, dtype: DType): Tensor {
  const wanted = options.dtype === undefined ? dtype : toDType(options.dtype);
  const device = options.device ?? "cpu";
  const result = wanted === dtype && device === "cpu" ? tensor : tensor.to({ dtype: wanted, device, nonBlocking: options.pinMemory });
  if (result !== tensor) tensor.dispose();
  return options.requiresGrad ? result.requiresGrad_() : result;
}

function measure(data: TensorData): number[] {
  const shape: number[] = [];
  let level: TensorData = data;
  while (typeof level === "object") {
    shape.push(level.length);
    if (ArrayBuffer.isView(level) || level.length === 0) break;
    level = level[0] as TensorData;
  }
  return shape;
}

/**
 * A tensor from numbers, booleans, bigints, nested arrays of them, or a typed array: torch.tensor.
 *
 * Booleans make a bool tensor, bigints int64, a typed array its own dtype. Plain numbers make float32: unlike Python,
 * JavaScript does not tell 1 from 1.0, and a dtype that depends on the values is a trap. Ask with `{ dtype: "int64" }`.
 * @throws TorchError TORCH_VALUE when nested arrays are ragged
 */
export function tensor(data: TensorData, options: TensorOptions = {}): Tensor {
  if (ArrayBuffer.isView(data)) return fromTypedArray(data as TypedArray, undefined, options);
  const shape = measure(data);
  const total = shape.reduce((product, size) => product * size, 1);
  const flat: (number | boolean | bigint)[] = [];
  const flatten = (value: TensorData, depth: number) => {
    if (typeof value !== "object") {
      if (depth !== shape.length) throw new TorchError("TORCH_VALUE", `tensor: expected sequences of one length at dimension ${depth}`);
      flat.push(value);
      return;
    }
    if (value === null || depth >= shape.length || value.length !== shape[depth])
      throw new TorchError("TORCH_VALUE", `tensor: expected sequences of length ${shape[depth]} at dimension ${depth}, got ${value?.length}`);
    for (let i = 0; i < value.length; i++) flatten((value as ArrayLike<TensorData>)[i], depth + 1);
  };
  flatten(data, 0);
  const first = typeof flat[0];
  const natural: DType = first === "boolean" ? "bool" : first === "bigint" ? "int64" : "float32";
  for (const value of flat) {
    if (typeof value !== "number" && typeof value !== "boolean" && typeof value !== "bigint")
      throw new TorchError("TORCH_TYPE", `tensor: cannot make a tensor from a ${typeof value}`);
  }
  // Through the wanted dtype's own array where it has one, so that int64 and float64 lose nothing on the way.
  const wanted = options.dtype === undefined ? natural : toDType(options.dtype);
  const direct: DType = dtypes[wanted].array ? wanted : "float32";
  const array = allocate(direct, total);
  const big = array instanceof BigInt64Array || array instanceof BigUint64Array;
  for (let i = 0; i < total; i++) {
    const value = flat[i];
    if (big) (array as BigInt64Array)[i] = typeof value === "bigint" ? value : BigInt(Math.trunc(Number(value)));
    else (array as Float64Array)[i] = direct === "bool" ? (value ? 1 : 0) : Number(value);
  }
  return finish(upload(array, shape, direct, options.pinMemory), options, direct);
}

interface RandomOptions extends TensorOptions {
  generator?: Generator;
}

type Factory = (...args: unknown[]) => Tensor;

const make = (name: string) => operatorFunction<Factory>(`aten::${name}`);

const operators = {
  zeros: make("zeros"),
  ones: make("ones"),
  full: make("full"),
  empty: make("empty"),
  rand: make("rand"),
  randn: make("randn"),
  randint: make("randint"),
  randperm: make("randperm"),
  arange: make("arange"),
  linspace: make("linspace"),
  eye: make("eye"),
  zerosLike: make("zeros_like"),
  onesLike: make("ones_like"),
  fullLike: make("full_like"),
  emptyLike: make("empty_like"),
  randLike: make("rand_like"),
  randnLike: make("randn_like"),
};

function named(options: RandomOptions, dtype: DTypeLike | undefined): Record<string, unknown> {
  const result: Record<string, unknown> = {};
  const wanted = options.dtype ?? dtype;
  if (wanted !== undefined) result.dtype = toDType(wanted);
  if (options.device !== undefined) result.device = options.device;
  if (options.pinMemory !== undefined) result.pin_memory = options.pinMemory;
  if (options.generator !== undefined) result.generator = options.generator;
  return result;
}

function build(operator: Factory, args: unknown[], options: RandomOptions, dtype: DTypeLike | undefined = "float32"): Tensor {
  const result = operator(...args, named(options, dtype));
  return options.requiresGrad ? result.requiresGrad_() : result;
}

/** torch.zeros. Default float32. */
export const zeros = (shape: readonly number[], options: TensorOptions = {}) => build(operators.zeros, [shape], options);
/** torch.ones. Default float32. */
export const ones = (shape: readonly number[], options: TensorOptions = {}) => build(operators.ones, [shape], options);
/** torch.full. Default float32, also for an integral value. */
export const full = (shape: readonly number[], value: Scalar, options: TensorOptions = {}) =>
  build(operators.full, [shape, value], options, typeof value === "boolean" ? "bool" : "float32");
/** torch.empty: memory as it is. Default float32. */
export const empty = (shape: readonly number[], options: TensorOptions = {}) => build(operators.empty, [shape], options);
/** torch.rand: uniform in [0, 1). */
export const rand = (shape: readonly number[], options: RandomOptions = {}) => build(operators.rand, [shape], options);
/** torch.randn: standard normal. */
export const randn = (shape: readonly number[], options: RandomOptions = {}) => build(operators.randn, [shape], options);
/** torch.randint: integers in [low, high). Default int64. */
export const randint = (low: number, high: number, shape: readonly number[], options: RandomOptions = {}) =>
  build(operators.randint, [low, high, shape], options, "int64");
/** torch.randperm. Default int64. */
export const randperm = (n: number, options: RandomOptions = {}) => build(operators.randperm, [n], options, "int64");
/** torch.eye. */
export const eye = (rows: number, columns: number = rows, options: TensorOptions = {}) =>
  build(operators.eye, [rows, columns], options);
/** torch.linspace: `steps` values from start to end, both included. */
export const linspace = (start: number, end: number, steps: number, options: TensorOptions = {}) =>
  build(operators.linspace, [start, end, steps], options);

/** torch.arange: `arange(end)`, `arange(start, end)`, `arange(start, end, step)`. int64 when all are integers, else float32. */
export function arange(end: number, options?: TensorOptions): Tensor;
export function arange(start: number, end: number, options?: TensorOptions): Tensor;
export function arange(start: number, end: number, step: number, options?: TensorOptions): Tensor;
export function arange(...args: (number | TensorOptions | undefined)[]): Tensor {
  const numbers = args.filter((arg): arg is number => typeof arg === "number");
  const options = (args.find((arg) => typeof arg === "object") ?? {}) as TensorOptions;
  return build(operators.arange, numbers, options, numbers.every(Number.isInteger) ? "int64" : "float32");
}

/** torch.zeros_like: shape, dtype and device of another tensor. */
export const zerosLike = (like: Tensor, options: TensorOptions = {}) => build(operators.zerosLike, [like], options, undefined);
/** torch.ones_like. */
export const onesLike = (like: Tensor, options: TensorOptions = {}) => build(operators.onesLike, [like], options, undefined);
/** torch.full_like. */
export const fullLike = (like: Tensor, value: Scalar, options: TensorOptions = {}) =>
  build(operators.fullLike, [like, value], options, undefined);
/** torch.empty_like. */
export const emptyLike = (like: Tensor, options: TensorOptions = {}) => build(operators.emptyLike, [like], options, undefined);
/** torch.rand_like. */
export const randLike = (like: Tensor, options: RandomOptions = {}) => build(operators.randLike, [like], options, undefined);
/** torch.randn_like. */
export const randnLike = (like: Tensor, options: RandomOptions = {}) => build(operators.randnLike, [like], options, undefined);
