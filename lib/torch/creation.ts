import { type DType, type DTypeLike, dtypeOf, dtypes, type TypedArray, toDType } from "./dtype.js";
import { asTorchError, TorchError } from "./errors.js";
import type { Generator } from "./generator.js";
import { native } from "./native.js";
import { operatorFunction } from "./operator-function.js";
import type { Scalar } from "./scalar.js";
import { Tensor } from "./tensor.js";
import { flatten, naturalDType, type TensorData, toTypedArray } from "./tensor-data.js";

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

/** Copies a typed array into a tensor of the given shape. The dtype is the array's own, unless `dtype` asks for a conversion. */
export function fromTypedArray(
  data: TypedArray,
  shape: readonly number[] = [data.length],
  options: TensorOptions = {},
): Tensor {
  const dtype = dtypeOf(data);
  return finish(upload(data, shape, dtype, options.pinMemory), options, dtype);
}

function upload(data: TypedArray, shape: readonly number[], dtype: DType, pinned = false): Tensor {
  let total = 1;
  for (let i = 0; i < shape.length; i++) {
    const size = shape[i];
    if (!Number.isInteger(size) || size < 0)
      throw new TorchError("TORCH_VALUE", `tensor: size ${size} of dimension ${i}: sizes are integers from 0`);
    native.scratch[i] = size;
    total *= size;
  }
  if (total !== data.length)
    throw new TorchError("TORCH_VALUE", `tensor: shape [${shape}] has ${total} elements, the data has ${data.length}`);
  try {
    return new Tensor(native.fromBytes(data, shape.length, dtypes[dtype].code, pinned));
  } catch (error) {
    throw asTorchError(error, "tensor");
  }
}

function finish(tensor: Tensor, options: TensorOptions, dtype: DType): Tensor {
  const wanted = options.dtype === undefined ? dtype : toDType(options.dtype);
  const device = options.device ?? "cpu";
  const result =
    wanted === dtype && device === "cpu"
      ? tensor
      : tensor.to({ dtype: wanted, device, nonBlocking: options.pinMemory });
  if (result !== tensor) tensor.dispose();
  return options.requiresGrad ? result.requiresGrad_() : result;
}

/**
 * A tensor from numbers, booleans, bigints, nested arrays of them, or a typed array: torch.tensor.
 *
 * Booleans make a bool tensor, bigints int64, a typed array its own dtype. Plain numbers make float32: unlike Python,
 * JavaScript does not tell 1 from 1.0, and a dtype that depends on the values is a trap. Ask with `{ dtype: "int64" }`.
 * @throws TorchError TORCH_VALUE when nested arrays are ragged or a value does not fit into an integer dtype, TORCH_TYPE
 * for anything else than numbers
 */
export function tensor(data: TensorData, options: TensorOptions = {}): Tensor {
  if (ArrayBuffer.isView(data)) return fromTypedArray(data as TypedArray, undefined, options);
  const { flat, shape } = flatten(data);
  const wanted = options.dtype === undefined ? naturalDType(flat) : toDType(options.dtype);
  // Through the wanted dtype's own array where it has one, so that int64 and float64 lose nothing on the way.
  const direct: DType = dtypes[wanted].array ? wanted : wanted === "complex128" ? "float64" : "float32";
  return finish(upload(toTypedArray(flat, direct), shape, direct, options.pinMemory), options, direct);
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

/** The arguments with the options behind them, if there are any: libtorch's own defaults are the same. */
function build(operator: Factory, args: unknown[], options: RandomOptions, dtype?: DTypeLike): Tensor {
  const wanted = options.dtype ?? dtype;
  const { device, pinMemory, generator } = options;
  if (wanted ?? device ?? pinMemory ?? generator) {
    const named: Record<string, unknown> = {};
    if (wanted !== undefined) named.dtype = toDType(wanted);
    if (device !== undefined) named.device = device;
    if (pinMemory !== undefined) named.pin_memory = pinMemory;
    if (generator !== undefined) named.generator = generator;
    args.push(named);
  }
  const result = operator(...args);
  return options.requiresGrad ? result.requiresGrad_() : result;
}

/** torch.zeros. Default float32. */
export const zeros = (shape: readonly number[], options: TensorOptions = {}) =>
  build(operators.zeros, [shape], options);
/** torch.ones. Default float32. */
export const ones = (shape: readonly number[], options: TensorOptions = {}) => build(operators.ones, [shape], options);
/** torch.full. Default float32, also for an integral number; bool and int64 for a boolean and a bigint. */
export const full = (shape: readonly number[], value: Scalar, options: TensorOptions = {}) =>
  build(
    operators.full,
    [shape, value],
    options,
    typeof value === "boolean" ? "bool" : typeof value === "bigint" ? "int64" : "float32",
  );
/** torch.empty: memory as it is. Default float32. */
export const empty = (shape: readonly number[], options: TensorOptions = {}) =>
  build(operators.empty, [shape], options);
/** torch.rand: uniform in [0, 1). */
export const rand = (shape: readonly number[], options: RandomOptions = {}) => build(operators.rand, [shape], options);
/** torch.randn: standard normal. */
export const randn = (shape: readonly number[], options: RandomOptions = {}) =>
  build(operators.randn, [shape], options);
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
export const zerosLike = (like: Tensor, options: TensorOptions = {}) => build(operators.zerosLike, [like], options);
/** torch.ones_like. */
export const onesLike = (like: Tensor, options: TensorOptions = {}) => build(operators.onesLike, [like], options);
/** torch.full_like. */
export const fullLike = (like: Tensor, value: Scalar, options: TensorOptions = {}) =>
  build(operators.fullLike, [like, value], options);
/** torch.empty_like. */
export const emptyLike = (like: Tensor, options: TensorOptions = {}) => build(operators.emptyLike, [like], options);
/** torch.rand_like. */
export const randLike = (like: Tensor, options: RandomOptions = {}) => build(operators.randLike, [like], options);
/** torch.randn_like. */
export const randnLike = (like: Tensor, options: RandomOptions = {}) => build(operators.randnLike, [like], options);
