import { TorchError } from "./errors.js";

/** Element types by PyTorch's names. */
export type DType =
  | "bool"
  | "uint8"
  | "int8"
  | "int16"
  | "int32"
  | "int64"
  | "float16"
  | "bfloat16"
  | "float32"
  | "float64"
  | "uint16"
  | "uint32"
  | "uint64"
  | "float8_e4m3fn"
  | "float8_e5m2"
  | "complex64"
  | "complex128";

type TypedArrayKind = "u8" | "i8" | "u16" | "i16" | "u32" | "i32" | "f32" | "f64" | "u64" | "i64";

interface DTypeInfo {
  /** The number of its c10::ScalarType. */
  code: number;
  itemSize: number;
  floating: boolean;
  /** The typed array with the same element format; absent if JavaScript has none. */
  array?: TypedArrayKind;
  /** Its name in a safetensors header; absent if the format does not support it. */
  safetensors?: string;
}

export const dtypes: Record<DType, DTypeInfo> = {
  uint8: { code: 0, itemSize: 1, floating: false, array: "u8", safetensors: "U8" },
  int8: { code: 1, itemSize: 1, floating: false, array: "i8", safetensors: "I8" },
  int16: { code: 2, itemSize: 2, floating: false, array: "i16", safetensors: "I16" },
  int32: { code: 3, itemSize: 4, floating: false, array: "i32", safetensors: "I32" },
  int64: { code: 4, itemSize: 8, floating: false, array: "i64", safetensors: "I64" },
  float16: { code: 5, itemSize: 2, floating: true, safetensors: "F16" },
  float32: { code: 6, itemSize: 4, floating: true, array: "f32", safetensors: "F32" },
  float64: { code: 7, itemSize: 8, floating: true, array: "f64", safetensors: "F64" },
  complex64: { code: 9, itemSize: 8, floating: false },
  complex128: { code: 10, itemSize: 16, floating: false },
  bool: { code: 11, itemSize: 1, floating: false, array: "u8", safetensors: "BOOL" },
  bfloat16: { code: 15, itemSize: 2, floating: true, safetensors: "BF16" },
  float8_e5m2: { code: 23, itemSize: 1, floating: true, safetensors: "F8_E5M2" },
  float8_e4m3fn: { code: 24, itemSize: 1, floating: true, safetensors: "F8_E4M3" },
  uint16: { code: 27, itemSize: 2, floating: false, array: "u16", safetensors: "U16" },
  uint32: { code: 28, itemSize: 4, floating: false, array: "u32", safetensors: "U32" },
  uint64: { code: 29, itemSize: 8, floating: false, array: "u64", safetensors: "U64" },
};

const aliases = {
  bf16: "bfloat16",
  fp16: "float16",
  fp32: "float32",
  fp64: "float64",
  half: "float16",
  float: "float32",
  double: "float64",
  long: "int64",
  int: "int32",
  short: "int16",
} as const satisfies Record<string, DType>;

/** A dtype by name or by one of PyTorch's other names for it ("half", "float", "long", …). */
export type DTypeLike = DType | keyof typeof aliases;

const codes = new Map<string, number>(
  [...Object.keys(dtypes).map((name) => [name, name]), ...Object.entries(aliases)].map(([name, dtype]) => [
    name,
    dtypes[dtype as DType].code,
  ]),
);

export function isDType(name: unknown): name is DTypeLike {
  return codes.has(name as string);
}

/** The addon's number of a dtype; undefined for an unknown name. */
export function dtypeCode(name: string): number | undefined {
  return codes.get(name);
}

const byCode = new Map(Object.entries(dtypes).map(([name, { code }]) => [code, name as DType]));

/**
 * The dtype with one of the addon's numbers. PyTorch's internal dtypes (such as quantized ones) are not a {@link
 * DType}.
 */
export function dtypeOfCode(code: number): DType {
  return byCode.get(code) ?? (`dtype ${code}` as DType);
}

/** The canonical name of a dtype. Throws TORCH_ARGUMENT with the allowed names. */
export function toDType(name: DTypeLike): DType {
  if (Object.hasOwn(dtypes, name)) return name as DType;
  if (Object.hasOwn(aliases, name)) return aliases[name as keyof typeof aliases];
  throw new TorchError(
    "TORCH_ARGUMENT",
    `unknown dtype ${JSON.stringify(name)}: one of ${[...Object.keys(dtypes), ...Object.keys(aliases)].join(", ")}`,
  );
}

export type TypedArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigInt64Array
  | BigUint64Array;

const arrayTypes = {
  u8: Uint8Array,
  i8: Int8Array,
  u16: Uint16Array,
  i16: Int16Array,
  u32: Uint32Array,
  i32: Int32Array,
  f32: Float32Array,
  f64: Float64Array,
  i64: BigInt64Array,
  u64: BigUint64Array,
};

/**
 * An empty typed array for `length` elements of a dtype. Throws for float16 and bfloat16, which have none: convert to
 * float32 first.
 */
export function allocate(dtype: DType, length: number): TypedArray {
  const array = dtypes[dtype]?.array;
  if (!array) throw new TorchError("TORCH_TYPE", `JavaScript has no typed array for ${dtype}`);
  return new arrayTypes[array](length);
}

/** The dtype of a typed array's elements. */
export function dtypeOf(array: TypedArray): DType {
  if (array instanceof Float32Array) return "float32";
  if (array instanceof Float64Array) return "float64";
  if (array instanceof Int32Array) return "int32";
  if (array instanceof BigInt64Array) return "int64";
  if (array instanceof Uint8Array || (array as unknown) instanceof Uint8ClampedArray) return "uint8";
  if (array instanceof Int8Array) return "int8";
  if (array instanceof Int16Array) return "int16";
  if (array instanceof Uint16Array) return "uint16";
  if (array instanceof Uint32Array) return "uint32";
  if (array instanceof BigUint64Array) return "uint64";
  throw new TorchError("TORCH_TYPE", `no dtype corresponds to ${(array as object).constructor?.name ?? typeof array}`);
}

/**
 * A value for PyTorch's Scalar. JavaScript has one number type: an integral value is an int Scalar (as `2` in Python),
 * any other value a float Scalar. Use a bigint for an int Scalar beyond 2^53.
 */
export type Scalar = number | boolean | bigint;

export type Layout = "strided" | "sparse_coo" | "sparse_csr";

export type MemoryFormat = "contiguous_format" | "preserve_format" | "channels_last" | "channels_last_3d";
