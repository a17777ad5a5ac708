import { full } from "./creation.js";
import type { Scalar } from "./dtype.js";
import { TorchError } from "./errors.js";
import { operatorFunction } from "./operator.js";
import { checkArguments, checkOptions } from "./options.js";
import { Tensor } from "./tensor.js";

// Functions that PyTorch implements in Python (torch/functional.py), which do more than the operator of the same name.

/** Named arguments of {@link stft}. */
export interface StftOptions {
  /** Default: a quarter of nFft. */
  hopLength?: number | null;
  /** Default: nFft. */
  winLength?: number | null;
  /** [winLength]; default ones. */
  window?: Tensor | null;
  /**
   * Whether frames are centered at their time, with the signal padded on both sides; otherwise they start there.
   * Default true.
   */
  center?: boolean;
  /** Padding mode of the signal: "reflect" (default), "constant", "replicate", "circular". */
  padMode?: string;
  /** Default false. */
  normalized?: boolean;
  /** Return only half of the spectrum; default true for a real signal. */
  onesided?: boolean | null;
  /** Required for a real signal and window. */
  returnComplex?: boolean | null;
  /** Only without `center`. */
  alignToWindow?: boolean | null;
}

/** [torch.stft](https://docs.pytorch.org/docs/stable/generated/torch.stft.html): centered, unlike the operator. */
export const stft: {
  (input: Tensor, nFft: number, options?: StftOptions): Tensor;
  (
    input: Tensor,
    nFft: number,
    hopLength: number | null | undefined,
    winLength?: number | null,
    window?: Tensor | null,
    center?: boolean,
    padMode?: string,
    normalized?: boolean,
    onesided?: boolean | null,
    returnComplex?: boolean | null,
    alignToWindow?: boolean | null,
  ): Tensor;
} = operatorFunction("aten::stft", "center");

/** Options of {@link unique}. */
export interface UniqueOptions {
  /** Whether the values are sorted. Default true. */
  sorted?: boolean;
  /** Also return the index of each element's value. */
  returnInverse?: boolean;
  /** Also return how often each value occurs. */
  returnCounts?: boolean;
  /** Compare the slices along a dimension instead of the elements. */
  dim?: number | null;
}

/** Options of {@link uniqueConsecutive}. */
export type ConsecutiveOptions = Omit<UniqueOptions, "sorted">;

type Three = [values: Tensor, inverse: Tensor, counts: Tensor];

const uniqueAll =
  operatorFunction<(x: Tensor, sorted: boolean, inverse: boolean, counts: boolean) => Three>("aten::_unique2");
const uniqueDim =
  operatorFunction<(x: Tensor, dim: number, sorted: boolean, inverse: boolean, counts: boolean) => Three>(
    "aten::unique_dim",
  );
const consecutiveAll =
  operatorFunction<(x: Tensor, inverse: boolean, counts: boolean, dim: number | null) => Three>(
    "aten::unique_consecutive",
  );
const consecutiveDim =
  operatorFunction<(x: Tensor, dim: number, inverse: boolean, counts: boolean) => Three>(
    "aten::unique_dim_consecutive",
  );

/** The values, or a list of the values and the other requested results. */
function chosen([values, inverse, counts]: Three, { returnInverse, returnCounts }: UniqueOptions): Tensor | Tensor[] {
  if (!returnInverse) inverse.dispose();
  if (!returnCounts) counts.dispose();
  if (!returnInverse && !returnCounts) return values;
  return [values, ...(returnInverse ? [inverse] : []), ...(returnCounts ? [counts] : [])];
}

/** The options of a call, which can also be positional, as in Python. */
function uniqueOptions(what: string, names: readonly (keyof UniqueOptions)[], args: readonly unknown[]): UniqueOptions {
  const last = args.at(-1);
  const isNamed = typeof last === "object" && last !== null;
  const positional = isNamed ? args.slice(0, -1) : args;
  checkArguments(what, positional.length, names.length);
  const named = isNamed ? checkOptions(what, last as UniqueOptions, names) : {};
  const options: Record<string, unknown> = { ...named };
  for (const [i, value] of positional.entries()) {
    if (value === undefined) continue;
    if (named[names[i]] !== undefined) throw new TorchError("TORCH_ARGUMENT", `${what}: '${names[i]}' is given twice`);
    options[names[i]] = value;
  }
  for (const name of names) {
    const value = options[name];
    if (
      value === undefined ||
      (name === "dim" ? value === null || Number.isInteger(value) : typeof value === "boolean")
    )
      continue;
    throw new TorchError("TORCH_ARGUMENT", `${what}: '${name}' cannot be ${String(value)}`);
  }
  return options;
}

/**
 * [torch.unique](https://docs.pytorch.org/docs/stable/generated/torch.unique.html): returns the values, or a list of
 * the values and the other requested results.
 */
export function unique(
  input: Tensor,
  options?: UniqueOptions & { returnInverse?: false; returnCounts?: false },
): Tensor;
export function unique(input: Tensor, options: UniqueOptions): Tensor[];
export function unique(
  input: Tensor,
  sorted: boolean,
  returnInverse?: boolean,
  returnCounts?: boolean,
  dim?: number | null,
): Tensor | Tensor[];
export function unique(input: Tensor, ...args: unknown[]): Tensor | Tensor[] {
  const options = uniqueOptions("unique", ["sorted", "returnInverse", "returnCounts", "dim"], args);
  const { sorted = true, returnInverse = false, returnCounts = false, dim } = options;
  const all =
    typeof dim === "number"
      ? uniqueDim(input, dim, sorted, returnInverse, returnCounts)
      : uniqueAll(input, sorted, returnInverse, returnCounts);
  return chosen(all, options);
}

/**
 * [torch.unique_consecutive](https://docs.pytorch.org/docs/stable/generated/torch.unique_consecutive.html): removes
 * consecutive duplicates. Returns the values, or a list of the values and the other requested results.
 */
export function uniqueConsecutive(
  input: Tensor,
  options?: ConsecutiveOptions & { returnInverse?: false; returnCounts?: false },
): Tensor;
export function uniqueConsecutive(input: Tensor, options: ConsecutiveOptions): Tensor[];
export function uniqueConsecutive(
  input: Tensor,
  returnInverse: boolean,
  returnCounts?: boolean,
  dim?: number | null,
): Tensor | Tensor[];
export function uniqueConsecutive(input: Tensor, ...args: unknown[]): Tensor | Tensor[] {
  const options = uniqueOptions("uniqueConsecutive", ["returnInverse", "returnCounts", "dim"], args);
  const { returnInverse = false, returnCounts = false, dim } = options;
  const all =
    typeof dim === "number"
      ? consecutiveDim(input, dim, returnInverse, returnCounts)
      : consecutiveAll(input, returnInverse, returnCounts, null);
  return chosen(all, options);
}

const whereOperator = operatorFunction<(...args: unknown[]) => Tensor | Tensor[]>("aten::where");

const isScalar = (value: unknown): value is Scalar =>
  typeof value === "number" || typeof value === "boolean" || typeof value === "bigint";

/**
 * [torch.where](https://docs.pytorch.org/docs/stable/generated/torch.where.html). For two numbers the dtype is float32,
 * as for {@link full}; for booleans bool, for bigints int64.
 */
export function where(condition: Tensor): Tensor[];
export function where(condition: Tensor, input: Tensor | Scalar, other: Tensor | Scalar): Tensor;
export function where(
  condition: Tensor,
  input: Tensor | Scalar,
  other: Tensor | Scalar,
  options: { out: Tensor },
): Tensor;
export function where(...args: unknown[]): Tensor | Tensor[] {
  const [condition, input, other, ...more] = args;
  if (!(condition instanceof Tensor && isScalar(input) && isScalar(other))) return whereOperator(...args);
  const kinds = [typeof input, typeof other];
  const dtype = kinds.includes("number") ? "float32" : kinds.includes("bigint") ? "int64" : "bool";
  const values = [input, other].map((value) => full([], value, { dtype, device: condition.device }));
  try {
    return whereOperator(condition, ...values, ...more);
  } finally {
    for (const value of values) value.dispose();
  }
}
