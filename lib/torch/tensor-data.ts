import { allocate, type DType, dtypes, type TypedArray } from "./dtype.js";
import { TorchError } from "./errors.js";

/** Data from which a tensor can be created. */
export type TensorData = number | boolean | bigint | TypedArray | readonly TensorData[];

/** More dimensions than any operator supports; deeper nesting is cyclic or malicious. */
export const maxDims = 64;

type Element = number | boolean | bigint;

const isList = (value: unknown): value is ArrayLike<unknown> => Array.isArray(value) || ArrayBuffer.isView(value);

/** The elements in row-major order, and the shape of the nesting. Throws if it is ragged. */
export function flatten(data: TensorData): { flat: Element[]; shape: number[] } {
  const shape: number[] = [];
  for (let level: unknown = data; isList(level); level = level[0]) {
    if (shape.length === maxDims)
      throw new TorchError("TORCH_VALUE", `tensor: the lists are nested deeper than ${maxDims} dimensions`);
    shape.push(level.length);
  }
  const flat: Element[] = [];
  const visit = (value: unknown, depth: number): void => {
    if (isList(value) ? value.length !== shape[depth] : depth < shape.length) {
      const wanted = depth < shape.length ? `a list of length ${shape[depth]}` : "a number";
      const got = isList(value) ? `one of length ${value.length}` : value === null ? "null" : `a ${typeof value}`;
      throw new TorchError(
        "TORCH_VALUE",
        `tensor: the nesting is ragged: expected ${wanted} at depth ${depth}, got ${got}`,
      );
    }
    if (isList(value)) for (let i = 0; i < value.length; i++) visit(value[i], depth + 1);
    else if (typeof value === "number" || typeof value === "boolean" || typeof value === "bigint") flat.push(value);
    else
      throw new TorchError(
        "TORCH_TYPE",
        `tensor: expected numbers, booleans, bigints or lists of them, got ${value === null ? "null" : `a ${typeof value}`}`,
      );
  };
  visit(data, 0);
  return { flat, shape };
}

/** bool if all are booleans, int64 for bigints (and booleans), float32 if there is any number. */
export function naturalDType(flat: readonly Element[]): DType {
  let dtype: DType = flat.length === 0 ? "float32" : "bool";
  for (const value of flat) {
    if (typeof value === "number") return "float32";
    if (typeof value === "bigint") dtype = "int64";
  }
  return dtype;
}

/**
 * The elements in the typed array of a dtype. Integers are truncated towards zero, as in PyTorch, and never wrap
 * around.
 * @throws TorchError TORCH_VALUE if a value does not fit
 */
export function toTypedArray(flat: readonly Element[], dtype: DType): TypedArray {
  const array = allocate(dtype, flat.length);
  if (dtype === "bool") for (let i = 0; i < flat.length; i++) array[i] = flat[i] ? 1 : 0;
  else if (dtypes[dtype].floating) for (let i = 0; i < flat.length; i++) array[i] = Number(flat[i]);
  else fillIntegers(array, flat, dtype);
  return array;
}

function fillIntegers(array: TypedArray, flat: readonly Element[], dtype: DType): void {
  const bits = dtypes[dtype].itemSize * 8;
  const unsigned = dtype.startsWith("u");
  const low = unsigned ? 0 : -(2 ** (bits - 1));
  const high = unsigned ? 2 ** bits : 2 ** (bits - 1);
  const big = array instanceof BigInt64Array || array instanceof BigUint64Array;
  for (let i = 0; i < flat.length; i++) {
    const given = flat[i];
    const value = typeof given === "bigint" ? given : Math.trunc(Number(given));
    if (!(value >= low && value < high))
      throw new TorchError("TORCH_VALUE", `tensor: ${given} does not fit into ${dtype}`);
    array[i] = big ? BigInt(value) : Number(value);
  }
}
