import type { Scalar } from "./dtype.js";
import { methodNames } from "./generated/methods.js";
import { type Index, index, indexPut } from "./indexing.js";
import { Operator } from "./operator.js";
import { camelCase } from "./options.js";
import {
  type ConsecutiveOptions,
  type StftOptions,
  stft,
  type UniqueOptions,
  unique,
  uniqueConsecutive,
} from "./python-functions.js";
import { Tensor } from "./tensor.js";

// Adds every public operator with a method form to Tensor.prototype, except those that Tensor implements itself.

function method(operator: Operator) {
  return function (this: Tensor, ...args: unknown[]): unknown {
    if (args.length === 1 && args[0] instanceof Tensor) return operator.callBinary(this, args[0]);
    if (args.length === 0) return operator.callUnary(this);
    return operator.call([this, ...args]);
  };
}

for (const name of methodNames.split(" ")) {
  const property = camelCase(name);
  if (Object.hasOwn(Tensor.prototype, property)) continue;
  Object.defineProperty(Tensor.prototype, property, {
    value: method(new Operator(`aten::${name}`, { isMethod: true })),
    writable: true,
    configurable: true,
  });
}

// Adds the functions that PyTorch implements in Python.
declare module "./tensor.js" {
  interface Tensor {
    /** [Tensor.stft](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.stft.html), centered as in PyTorch. */
    stft(nFft: number, options?: StftOptions): Tensor;
    /** [Tensor.unique](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.unique.html) */
    unique(options?: UniqueOptions & { returnInverse?: false; returnCounts?: false }): Tensor;
    unique(options: UniqueOptions): Tensor[];
    /** [Tensor.unique_consecutive](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.unique_consecutive.html) */
    uniqueConsecutive(options?: ConsecutiveOptions & { returnInverse?: false; returnCounts?: false }): Tensor;
    uniqueConsecutive(options: ConsecutiveOptions): Tensor[];
  }
}

for (const [name, run] of Object.entries({ stft, unique, uniqueConsecutive }))
  Object.defineProperty(Tensor.prototype, name, {
    value(this: Tensor, ...args: unknown[]) {
      return (run as (...args: unknown[]) => unknown)(this, ...args);
    },
    writable: true,
    configurable: true,
  });

// Indexing depends on operators, which depend on Tensor, so it is added to the prototype here.
declare module "./tensor.js" {
  interface Tensor {
    /**
     * `self[indices]` of Python: numbers, {@link slice}s, null, "...", booleans and tensors. Returns a view where
     * Python does.
     */
    index(...indices: Index[]): Tensor;
    /** `self[indices] = value` of Python; adds instead with `accumulate`. */
    indexPut_(indices: readonly Index[], value: Tensor | Scalar, accumulate?: boolean): this;
  }
}

Tensor.prototype.index = function (this: Tensor, ...indices: Index[]) {
  return index(this, indices);
};
Tensor.prototype.indexPut_ = function (this: Tensor, indices, value, accumulate = false) {
  indexPut(this, indices, value, accumulate);
  return this;
};
