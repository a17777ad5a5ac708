import type { Layout, MemoryFormat, Scalar } from "./dtype.js";
import { type DType, type DTypeLike, dtypeOf, dtypes, type TypedArray, toDType } from "./dtype.js";
import { asTorchError, TorchError } from "./errors.js";
import type { Generator } from "./generator.js";
import { native } from "./native.js";
import { operatorFunction } from "./operator.js";
import { checkOptions } from "./options.js";
import { type Tensor, wrap } from "./tensor.js";
import { flatten, maxDims, naturalDType, type TensorData, toTypedArray } from "./tensor-data.js";

/** Dtype and device of a new tensor. */
export interface TensorOptions {
  /** Default "float32". */
  dtype?: DTypeLike;
  /** "cpu" (default), "cuda", "cuda:1". */
  device?: string;
  requiresGrad?: boolean;
  /** Page-locked host memory, from which copies to a device are asynchronous. */
  pinMemory?: boolean;
}

const tensorOptionNames = ["dtype", "device", "requiresGrad", "pinMemory"];

/** Copies a typed array into a tensor of the given shape. The dtype is that of the array, unless `dtype` is given. */
export function fromTypedArray(
  data: TypedArray,
  shape: readonly number[] = [data.length],
  options: TensorOptions = {},
): Tensor {
  options = checkOptions("fromTypedArray", options, tensorOptionNames);
  const dtype = dtypeOf(data);
  return finish(upload(data, shape, dtype, options.pinMemory), options, dtype);
}

function upload(data: TypedArray, shape: readonly number[], dtype: DType, pinned = false): Tensor {
  let total = 1;
  const sizes = [...shape]; // read before scratch is written, because getters may call torch
  if (sizes.length > maxDims)
    throw new TorchError("TORCH_VALUE", `tensor: ${sizes.length} dimensions are too many, the maximum is ${maxDims}`);
  for (let i = 0; i < sizes.length; i++) {
    const size = sizes[i];
    if (!Number.isInteger(size) || size < 0)
      throw new TorchError("TORCH_VALUE", `tensor: size ${size} of dimension ${i} is not a non-negative integer`);
    native.scratch[i] = size;
    total *= size;
  }
  if (total !== data.length)
    throw new TorchError(
      "TORCH_VALUE",
      `tensor: shape [${sizes}] has ${total} elements, but the data has ${data.length}`,
    );
  try {
    return wrap(native.fromBytes(data, sizes.length, dtypes[dtype].code, pinned));
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
 * JavaScript does not distinguish 1 from 1.0, and a dtype that depends on the values would be error-prone. Use `{
 * dtype: "int64" }` for integers.
 * @throws TorchError TORCH_VALUE if nested arrays are ragged or a value does not fit into an integer dtype, TORCH_TYPE
 *   for other data
 */
export function tensor(data: TensorData, options: TensorOptions = {}): Tensor {
  options = checkOptions("tensor", options, tensorOptionNames);
  if (ArrayBuffer.isView(data)) return fromTypedArray(data as TypedArray, undefined, options);
  const { flat, shape } = flatten(data);
  const wanted = options.dtype === undefined ? naturalDType(flat) : toDType(options.dtype);
  // Converted through the typed array of the target dtype if there is one, so that int64 and float64 keep their
  // precision.
  const direct: DType = dtypes[wanted].array ? wanted : wanted === "complex128" ? "float64" : "float32";
  return finish(upload(toTypedArray(flat, direct), shape, direct, options.pinMemory), options, direct);
}

/** Options of functions that create a filled tensor. */
export interface CreationOptions extends TensorOptions {
  /** The output tensor, which is returned. */
  out?: Tensor;
  layout?: Layout;
}

export interface RandomOptions extends CreationOptions {
  generator?: Generator;
}

export interface LikeOptions extends TensorOptions {
  layout?: Layout;
  memoryFormat?: MemoryFormat;
}

export interface RandomLikeOptions extends LikeOptions {
  generator?: Generator;
}

type Factory = (...args: unknown[]) => Tensor;

interface Creator {
  /** The function's name, for messages. */
  name: string;
  operator: Factory;
  optionNames: readonly string[];
}

const filled = [...tensorOptionNames, "layout", "out"];
const like = [...tensorOptionNames, "layout", "memoryFormat"];

const creator = (name: string, operator: string, optionNames: readonly string[]): Creator => ({
  name,
  operator: operatorFunction<Factory>(`aten::${operator}`),
  optionNames,
});

const creators = {
  zeros: creator("zeros", "zeros", filled),
  ones: creator("ones", "ones", filled),
  full: creator("full", "full", filled),
  empty: creator("empty", "empty", [...filled, "memoryFormat"]),
  rand: creator("rand", "rand", [...filled, "generator"]),
  randn: creator("randn", "randn", [...filled, "generator"]),
  randint: creator("randint", "randint", [...filled, "generator"]),
  randperm: creator("randperm", "randperm", [...filled, "generator"]),
  arange: creator("arange", "arange", filled),
  linspace: creator("linspace", "linspace", filled),
  eye: creator("eye", "eye", filled),
  zerosLike: creator("zerosLike", "zeros_like", like),
  onesLike: creator("onesLike", "ones_like", like),
  fullLike: creator("fullLike", "full_like", like),
  emptyLike: creator("emptyLike", "empty_like", like),
  randLike: creator("randLike", "rand_like", [...like, "generator"]),
  randnLike: creator("randnLike", "randn_like", [...like, "generator"]),
};

/** Calls the operator with the arguments and, if there are any, the options; libtorch has the same defaults. */
function build(
  { name, operator, optionNames }: Creator,
  args: unknown[],
  options: RandomOptions & LikeOptions,
  dtype?: DTypeLike,
): Tensor {
  options = checkOptions(name, options, optionNames);
  const named: Record<string, unknown> = {};
  let count = 0;
  for (const option in options) {
    const value = options[option as keyof RandomOptions];
    if (value === undefined || value === null || option === "requiresGrad") continue;
    named[option] = option === "dtype" ? toDType(value as DTypeLike) : value;
    count++;
  }
  // An `out` tensor already has a dtype.
  if (dtype !== undefined && named.dtype === undefined && named.out === undefined) {
    named.dtype = dtype;
    count++;
  }
  if (count > 0) args.push(named);
  const result = operator(...args);
  return options.requiresGrad ? result.requiresGrad_() : result;
}

/** torch.zeros. Default float32. */
export const zeros = (shape: readonly number[], options: CreationOptions = {}) =>
  build(creators.zeros, [shape], options);
/** torch.ones. Default float32. */
export const ones = (shape: readonly number[], options: CreationOptions = {}) => build(creators.ones, [shape], options);
/** torch.full. Default float32, also for an integral number; bool and int64 for a boolean and a bigint. */
export const full = (shape: readonly number[], value: Scalar, options: CreationOptions = {}) =>
  build(
    creators.full,
    [shape, value],
    options,
    typeof value === "boolean" ? "bool" : typeof value === "bigint" ? "int64" : "float32",
  );
/** torch.empty: uninitialized memory. Default float32. */
export const empty = (shape: readonly number[], options: CreationOptions & { memoryFormat?: MemoryFormat } = {}) =>
  build(creators.empty, [shape], options);
/** torch.rand: uniform in [0, 1). */
export const rand = (shape: readonly number[], options: RandomOptions = {}) => build(creators.rand, [shape], options);
/** torch.randn: standard normal. */
export const randn = (shape: readonly number[], options: RandomOptions = {}) => build(creators.randn, [shape], options);
/** torch.randint: integers in [low, high). Default int64. */
export const randint = (low: number, high: number, shape: readonly number[], options: RandomOptions = {}) =>
  build(creators.randint, [low, high, shape], options, "int64");
/** torch.randperm. Default int64. */
export const randperm = (n: number, options: RandomOptions = {}) => build(creators.randperm, [n], options, "int64");
/** torch.eye. */
export const eye = (rows: number, columns: number = rows, options: CreationOptions = {}) =>
  build(creators.eye, [rows, columns], options);
/** torch.linspace: `steps` values from start to end, both included. */
export const linspace = (start: number, end: number, steps: number, options: CreationOptions = {}) =>
  build(creators.linspace, [start, end, steps], options);

/**
 * torch.arange: `arange(end)`, `arange(start, end)`, `arange(start, end, step)`. int64 if all are integers, else
 * float32.
 */
export function arange(end: number, options?: CreationOptions): Tensor;
export function arange(start: number, end: number, options?: CreationOptions): Tensor;
export function arange(start: number, end: number, step: number, options?: CreationOptions): Tensor;
export function arange(...args: unknown[]): Tensor {
  const last = args.length > 1 && typeof args.at(-1) !== "number" ? args.pop() : undefined;
  const dtype = args.every((arg) => Number.isInteger(arg) || typeof arg === "bigint") ? "int64" : "float32";
  return build(creators.arange, args, (last ?? {}) as CreationOptions, dtype);
}

/** torch.zeros_like: shape, dtype and device of another tensor. */
export const zerosLike = (like: Tensor, options: LikeOptions = {}) => build(creators.zerosLike, [like], options);
/** torch.ones_like. */
export const onesLike = (like: Tensor, options: LikeOptions = {}) => build(creators.onesLike, [like], options);
/** torch.full_like. */
export const fullLike = (like: Tensor, value: Scalar, options: LikeOptions = {}) =>
  build(creators.fullLike, [like, value], options);
/** torch.empty_like. */
export const emptyLike = (like: Tensor, options: LikeOptions = {}) => build(creators.emptyLike, [like], options);
/** torch.rand_like. */
export const randLike = (like: Tensor, options: RandomLikeOptions = {}) => build(creators.randLike, [like], options);
/** torch.randn_like. */
export const randnLike = (like: Tensor, options: RandomLikeOptions = {}) => build(creators.randnLike, [like], options);
