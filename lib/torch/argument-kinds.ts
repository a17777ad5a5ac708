import { isDType } from "./dtype.js";
import { Generator } from "./generator.js";
import type { NativeArgument } from "./native.js";
import { Tensor } from "./tensor.js";

/** What an argument is. */
export enum Seen {
  Undefined,
  Null,
  Tensor,
  Integer,
  Float,
  Boolean,
  BigInt,
  String,
  DType,
  Generator,
  EmptyArray,
  TensorArray,
  OptionalTensorArray,
  IntegerArray,
  FloatArray,
  BooleanArray,
  StringArray,
  Other,
}

/** What one argument is. */
export function seen(value: unknown): Seen {
  switch (typeof value) {
    case "number":
      return Number.isInteger(value) ? Seen.Integer : Seen.Float;
    case "boolean":
      return Seen.Boolean;
    case "string":
      return isDType(value) ? Seen.DType : Seen.String;
    case "bigint":
      return Seen.BigInt;
    case "undefined":
      return Seen.Undefined;
  }
  if (value instanceof Tensor) return Seen.Tensor;
  if (value === null) return Seen.Null;
  if (Array.isArray(value)) return seenArray(value);
  return value instanceof Generator ? Seen.Generator : Seen.Other;
}

/** The kind of an array: that of its first element, which all others must share. */
function seenArray(array: readonly unknown[]): Seen {
  if (array.length === 0) return Seen.EmptyArray;
  let kind = Seen.Undefined;
  for (const item of array) {
    if (Array.isArray(item)) return Seen.Other; // no operator takes lists of lists, which may also be cyclic
    const one = seen(item);
    if (one === Seen.Tensor || one === Seen.Null) {
      if (kind === Seen.Undefined || kind === Seen.TensorArray || kind === Seen.OptionalTensorArray)
        kind = one === Seen.Null ? Seen.OptionalTensorArray : kind || Seen.TensorArray;
      else return Seen.Other;
    } else if (one === Seen.Integer || one === Seen.BigInt) {
      if (kind === Seen.Undefined) kind = Seen.IntegerArray;
      else if (kind !== Seen.IntegerArray && kind !== Seen.FloatArray) return Seen.Other;
    } else if (one === Seen.Float) {
      if (kind === Seen.Undefined || kind === Seen.IntegerArray) kind = Seen.FloatArray;
      else if (kind !== Seen.FloatArray) return Seen.Other;
    } else if (one === Seen.Boolean) {
      if (kind === Seen.Undefined) kind = Seen.BooleanArray;
      else if (kind !== Seen.BooleanArray) return Seen.Other;
    } else if (one === Seen.String || one === Seen.DType) {
      if (kind === Seen.Undefined) kind = Seen.StringArray;
      else if (kind !== Seen.StringArray) return Seen.Other;
    } else return Seen.Other;
  }
  return kind;
}

/** Whether an argument of the schema takes a value of this kind. */
export function accepts(argument: NativeArgument, kind: Seen): boolean {
  if (kind === Seen.Undefined) return argument.hasDefault;
  if (kind === Seen.Null) return argument.optional;
  if (argument.list) {
    if (kind === Seen.EmptyArray) return true;
    if (kind === Seen.Integer || kind === Seen.Float)
      return (
        argument.length !== null && (argument.kind === "float" || (argument.kind === "int" && kind === Seen.Integer))
      );
    switch (argument.kind) {
      case "Tensor":
        return kind === Seen.TensorArray || (argument.elementOptional && kind === Seen.OptionalTensorArray);
      case "int":
        return kind === Seen.IntegerArray;
      case "float":
        return kind === Seen.IntegerArray || kind === Seen.FloatArray;
      case "Scalar":
        return kind === Seen.IntegerArray || kind === Seen.FloatArray || kind === Seen.BooleanArray;
      case "bool":
        return kind === Seen.BooleanArray;
      case "str":
        return kind === Seen.StringArray;
      default:
        return false;
    }
  }
  switch (argument.kind) {
    case "Tensor":
      return kind === Seen.Tensor;
    case "Scalar":
      return kind === Seen.Integer || kind === Seen.Float || kind === Seen.Boolean || kind === Seen.BigInt;
    case "int":
      return kind === Seen.Integer || kind === Seen.BigInt;
    case "float":
      return kind === Seen.Integer || kind === Seen.Float;
    case "bool":
      return kind === Seen.Boolean;
    case "dtype":
      return kind === Seen.DType;
    case "str":
    case "device":
    case "layout":
    case "memory_format":
      return kind === Seen.String || kind === Seen.DType;
    case "Generator":
      return kind === Seen.Generator;
    default:
      return false;
  }
}
