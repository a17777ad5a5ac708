import { inspect } from "node:util";
import { describe, isPlainObject, shown } from "./describe.js";
import type { MemoryFormat } from "./dtype.js";
import {
  allocate,
  type DType,
  type DTypeLike,
  dtypeOfCode,
  dtypes,
  isDType,
  type TypedArray,
  toDType,
} from "./dtype.js";
import { asTorchError, TorchError } from "./errors.js";
import type { TensorMethods } from "./generated/methods.js";
import { type Handle, native } from "./native.js";
import { checkOptions } from "./options.js";
import { type Owned, release, type Scope, track } from "./scope.js";

const uncloneable: unknown = Symbol(
  "a Tensor cannot be sent to another thread: send toTypedArray() and shape instead:",
);

export type NestedNumbers = number | NestedNumbers[];

/** Options of {@link Tensor.to}. */
export interface ToOptions {
  dtype?: DTypeLike;
  device?: string;
  nonBlocking?: boolean;
  copy?: boolean;
  memoryFormat?: MemoryFormat;
}

/** A dtype or a device, by name. */
type Target = DTypeLike | (string & {});

/** The options of {@link Tensor.to} besides the target. */
type ToHow = Omit<ToOptions, "dtype" | "device">;

// Internal key: without it, users could create a Tensor for the handle of another tensor.
const byLibrary = Symbol("a handle of the addon");

export interface Tensor extends TensorMethods {}

/**
 * A libtorch tensor: torch.Tensor. The object holds a handle of the addon's table. The tensor is freed by its scope, by
 * {@link dispose}, or, outside every scope, by the garbage collector.
 *
 * Every operator of libtorch is a method, with PyTorch's name in camelCase and its positional arguments; keyword-only
 * arguments go into a last object: `x.add(y, { alpha: 2 })`, `x.sum([1], true)`, `x.mul_(0.5)`.
 */
// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: methods.ts adds the operators to the prototype
export class Tensor implements Disposable, Owned {
  /**
   * Makes structuredClone and postMessage throw, which would otherwise copy the tensor to an object without methods.
   */
  readonly uncloneable = uncloneable;
  handle: Handle;
  owner: Scope | null = null;

  /** Internal: takes ownership of a handle of the addon, see {@link wrap}. */
  constructor(handle: Handle, key: typeof byLibrary) {
    if (key !== byLibrary)
      throw new TorchError(
        "TORCH_ARGUMENT",
        "the constructor of Tensor is internal: use torch.tensor(data) or torch.empty(shape)",
      );
    this.handle = handle;
    track(this);
  }

  #read<T>(what: string, read: (handle: Handle) => T): T {
    try {
      return read(this.handle);
    } catch (error) {
      throw asTorchError(error, what);
    }
  }

  /** Sizes, outermost first; [] for a scalar. */
  get shape(): number[] {
    return fromScratch(this.#read("shape", native.shape));
  }

  /** Elements to skip in memory from one index to the next, by dimension. */
  get strides(): number[] {
    return fromScratch(this.#read("strides", native.strides));
  }

  get ndim(): number {
    return this.#read("ndim", native.shape);
  }

  /** The size of one dimension; negative dimensions count from the end. */
  size(dim: number): number {
    const ndim = this.#read("size", native.shape);
    const index = dim < 0 ? dim + ndim : dim;
    if (!Number.isInteger(dim) || index < 0 || index >= ndim) {
      throw new TorchError("TORCH_INDEX", `size: dimension ${dim} does not exist in a tensor with ${ndim} dimensions`);
    }
    return native.scratch[index];
  }

  /** The number of elements. */
  numel(): number {
    return this.#read("numel", native.numel);
  }

  get dtype(): DType {
    return dtypeOfCode(this.#read("dtype", native.dtype));
  }

  /** "cpu", or "cuda:0" and so on. */
  get device(): string {
    return this.#read("device", native.device);
  }

  get isCuda(): boolean {
    return this.device.startsWith("cuda");
  }

  isContiguous(): boolean {
    return this.#read("isContiguous", native.isContiguous);
  }

  /** Whether the tensor was freed. */
  get disposed(): boolean {
    return this.handle === 0;
  }

  [shown](): string {
    return this.disposed ? "Tensor(disposed)" : `Tensor([${this.shape}], ${this.dtype}, ${this.device})`;
  }

  /** Frees the tensor now. Its memory is freed when no view and no graph uses it. */
  dispose(): void {
    release(this);
  }

  [Symbol.dispose](): void {
    release(this);
  }

  // ---- autograd

  get requiresGrad(): boolean {
    return this.#read("requiresGrad", native.requiresGrad);
  }

  set requiresGrad(value: boolean) {
    this.requiresGrad_(value);
  }

  /** Makes the tensor record operations, in place: torch.Tensor.requires_grad_. */
  requiresGrad_(value = true): this {
    this.#read("requiresGrad_", (handle) => native.setRequiresGrad(handle, value));
    return this;
  }

  get isLeaf(): boolean {
    return this.#read("isLeaf", native.isLeaf);
  }

  /** The gradient that backward() accumulated, or null. A new object each time, of the same tensor. */
  get grad(): Tensor | null {
    const handle = this.#read("grad", native.getGrad);
    return handle === null ? null : wrap(handle);
  }

  set grad(gradient: Tensor | null) {
    this.#read("grad", (handle) => native.setGrad(handle, gradient === null ? 0 : liveHandle(gradient)));
  }

  /** Keeps the gradient of a tensor that is not a leaf: torch.Tensor.retain_grad. */
  retainGrad(): void {
    this.#read("retainGrad", native.retainGrad);
  }

  /** The name of the autograd node that created the tensor, such as "AddBackward0", or null for a leaf. */
  get gradFn(): string | null {
    return this.#read("gradFn", native.gradFunctionName);
  }

  /** Number of in-place modifications of the tensor: torch.Tensor._version. */
  get version(): number {
    return this.#read("version", native.version);
  }

  /**
   * Accumulates the gradients of this scalar in the leaves of its graph: torch.Tensor.backward.
   * @param gradient required if the tensor has more than one element
   */
  backward(gradient: Tensor | null = null, options: { retainGraph?: boolean; createGraph?: boolean } = {}): void {
    options = checkOptions("backward", options, ["retainGraph", "createGraph"]);
    this.#read("backward", () =>
      native.backward(
        [liveHandle(this)],
        gradient === null ? [] : [liveHandle(gradient)],
        options.retainGraph,
        options.createGraph ?? false,
      ),
    );
  }

  // ---- values

  /**
   * The value of a tensor with one element. Waits for the device. A bool is returned as 0 or 1.
   * @throws TorchError TORCH_VALUE for an integer beyond 2^53, which a number cannot represent: use {@link
   *   toTypedArray}, which returns bigints
   */
  item(): number {
    return this.#read("item", native.item);
  }

  /** The value of a tensor with one element, without blocking the event loop while the device works. */
  async itemAsync(): Promise<number> {
    if (this.numel() !== 1) return this.item();
    const [value] = await this.toTypedArrayAsync();
    return exactNumber("itemAsync", value);
  }

  #readable(): { tensor: Tensor; array: TypedArray } {
    const dtype = this.dtype;
    if (!(dtypes[dtype]?.array || dtypes[dtype]?.floating))
      throw new TorchError("TORCH_TYPE", `toTypedArray: JavaScript has no typed array for ${dtype}`);
    const tensor = dtypes[dtype].array ? this : this.to("float32");
    return { tensor, array: allocate(tensor.dtype, this.numel()) };
  }

  /**
   * The elements in row-major order. float16, bfloat16 and float8 are returned as Float32Array, int64 as BigInt64Array,
   * bool as Uint8Array. Waits for the device.
   */
  toTypedArray(): TypedArray {
    const { tensor, array } = this.#readable();
    tensor.#read("toTypedArray", (handle) => native.readInto(handle, array));
    if (tensor !== this) tensor.dispose();
    return array;
  }

  /** {@link toTypedArray} without blocking the event loop while the device works. */
  async toTypedArrayAsync(): Promise<TypedArray> {
    const { tensor, array } = this.#readable();
    try {
      return await tensor.#read("toTypedArrayAsync", (handle) => native.readAsync(handle, array));
    } finally {
      if (tensor !== this) tensor.dispose();
    }
  }

  /**
   * The elements as nested arrays of numbers: torch.Tensor.tolist.
   * @throws TorchError TORCH_VALUE for an integer beyond 2^53, which a number cannot represent: use {@link
   *   toTypedArray}, which returns bigints
   */
  tolist(): NestedNumbers {
    return nested(this.shape, this.toTypedArray(), (value) => exactNumber("tolist", value)) as NestedNumbers;
  }

  /** Throws, because JSON cannot represent tensors. */
  toJSON(): never {
    throw new TorchError(
      "TORCH_TYPE",
      "a Tensor cannot be converted to JSON: use tolist() for its numbers, or saveSafetensors for a file",
    );
  }

  // ---- conversion

  /**
   * Converts to another dtype or device, or to those of another tensor; returns itself if nothing changes:
   * torch.Tensor.to.
   *
   * `to("float64")`, `to("cuda")`, `to("cuda", "float16")`, `to(other)`, `to({ dtype, device, nonBlocking, copy,
   * memoryFormat })`. The first four also take nonBlocking and copy as booleans, or options, after the target.
   * @throws TorchError TORCH_ARGUMENT for anything else
   */
  to(options: ToOptions): Tensor;
  to(target: Target | Tensor, options?: ToHow): Tensor;
  to(target: Target | Tensor, nonBlocking: boolean, copy?: boolean, options?: ToHow): Tensor;
  to(device: string, dtype: DTypeLike, options?: ToHow): Tensor;
  to(device: string, dtype: DTypeLike, nonBlocking: boolean, copy?: boolean, options?: ToHow): Tensor;
  to(...args: unknown[]): Tensor {
    const wanted = toTarget(args);
    const dtype = wanted.dtype ?? this.dtype;
    const device = wanted.device ?? this.device;
    const same = dtype === this.dtype && canonicalDevice(device) === this.device;
    if (same && !wanted.copy && wanted.memoryFormat === undefined) return this;
    return convert(this, dtype, device, wanted);
  }

  float(): Tensor {
    return this.to("float32");
  }
  double(): Tensor {
    return this.to("float64");
  }
  half(): Tensor {
    return this.to("float16");
  }
  bfloat16(): Tensor {
    return this.to("bfloat16");
  }
  long(): Tensor {
    return this.to("int64");
  }
  int(): Tensor {
    return this.to("int32");
  }
  bool(): Tensor {
    return this.to("bool");
  }
  cpu(): Tensor {
    return this.to("cpu");
  }
  cuda(index = 0): Tensor {
    return this.to(`cuda:${index}`);
  }

  [inspect.custom](): string {
    if (this.disposed) return "Tensor(disposed)";
    const grad = this.requiresGrad ? ", requiresGrad" : "";
    return `Tensor([${this.shape}], ${this.dtype}, ${this.device}${grad})${this.#values()}`;
  }

  /** The values of a small tensor, for inspection; empty for dtypes and devices whose values cannot be shown. */
  #values(): string {
    if (this.numel() > 64) return "";
    try {
      const shown = (value: number | bigint) => (Number.isSafeInteger(Number(value)) ? Number(value) : value);
      return ` ${inspect(nested(this.shape, this.toTypedArray(), shown), { depth: 8, breakLength: 100 })}`;
    } catch {
      return "";
    }
  }
}

function fromScratch(count: number): number[] {
  const { scratch } = native;
  const list: number[] = [];
  for (let i = 0; i < count; i++) list.push(scratch[i]);
  return list;
}

/**
 * A tensor's handle for a list, in which 0 means no tensor; NaN for a disposed tensor, which is rejected by the addon.
 */
export function liveHandle(tensor: Tensor | null): Handle {
  return tensor === null ? 0 : tensor.handle || Number.NaN;
}

/** "cuda" is the current CUDA device. */
function canonicalDevice(device: string): string {
  return device === "cuda" ? `cuda:${native.cudaDeviceCount() > 0 ? native.cudaCurrentDevice() : 0}` : device;
}

interface ToTarget extends ToOptions {
  dtype?: DType;
}

const toOptionNames = ["dtype", "device", "nonBlocking", "copy", "memoryFormat"] as const;

/** Parses the arguments of {@link Tensor.to} as PyTorch does: target, two booleans, options. */
function toTarget(args: readonly unknown[]): ToTarget {
  const [first] = args;
  if (args.length === 1 && typeof first === "string")
    return isDType(first) ? { dtype: toDType(first) } : { device: first };
  const refuse = (): never => {
    throw new TorchError(
      "TORCH_ARGUMENT",
      `to: cannot take (${args.map(describe).join(", ")}): a dtype, a device, a device and a dtype, or a tensor, then ` +
        `nonBlocking and copy; or an object of ${toOptionNames.join(", ")}`,
    );
  };
  const target: ToTarget = {};
  let at = 0;
  if (first instanceof Tensor) {
    target.dtype = first.dtype;
    target.device = first.device;
    at++;
  } else if (typeof first === "string") {
    if (isDType(first)) target.dtype = toDType(first);
    else {
      target.device = first;
      if (isDType(args[1])) target.dtype = toDType(args[++at] as DTypeLike);
    }
    at++;
  } else if (args.length !== 1) refuse();
  if (typeof args[at] === "boolean") target.nonBlocking = args[at++] as boolean;
  if (typeof args[at] === "boolean") target.copy = args[at++] as boolean;
  if (args[at] === undefined && at === args.length - 1 && at > 0) return target;
  if (at === args.length) return at > 0 ? target : refuse();
  if (at !== args.length - 1 || !isPlainObject(args[at])) refuse();
  const options = checkOptions("to", args[at] as ToOptions, toOptionNames);
  for (const name of toOptionNames) {
    if (options[name] === undefined || options[name] === null) continue;
    if (target[name] !== undefined) refuse();
    if (name === "dtype") target.dtype = toDType(options.dtype as DTypeLike);
    else Object.assign(target, { [name]: options[name] });
  }
  return target;
}

let toCopy: number | undefined;

function convert(tensor: Tensor, dtype: DType, device: string, how: ToHow): Tensor {
  toCopy ??= native.overloads("aten::to").find((overload) => overload.overload === "dtype_layout")?.id;
  try {
    const { code } = dtypes[dtype];
    const { nonBlocking = false, copy = false, memoryFormat } = how;
    // (self, dtype, layout, device, pin_memory, non_blocking, copy, memory_format)
    const call = native.call as (...args: unknown[]) => Handle;
    return wrap(call(toCopy, tensor.handle, code, undefined, device, undefined, nonBlocking, copy, memoryFormat));
  } catch (error) {
    throw asTorchError(error, "to");
  }
}

/** Wraps a handle of the addon in a Tensor. */
export function wrap(handle: Handle): Tensor {
  return new Tensor(handle, byLibrary);
}

function exactNumber(what: string, value: number | bigint): number {
  const number = Number(value);
  if (typeof value === "bigint" && BigInt(number) !== value)
    throw new TorchError(
      "TORCH_VALUE",
      `${what}: the integer ${value} is not exact as a JavaScript number: use toTypedArray(), which returns bigints`,
    );
  return number;
}

type Nested<T> = T | Nested<T>[];

/** The elements in nested arrays. */
function nested<T>(shape: readonly number[], flat: TypedArray, value: (element: number | bigint) => T): Nested<T> {
  let index = 0;
  const build = (dim: number): Nested<T> =>
    dim === shape.length ? value(flat[index++]) : Array.from({ length: shape[dim] }, () => build(dim + 1));
  return build(0);
}
