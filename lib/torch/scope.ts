import { AsyncLocalStorage } from "node:async_hooks";
import { leaveToCollector } from "./collector.js";
import { TorchError } from "./errors.js";
import { type Handle, native } from "./native.js";

/** The part of a tensor that scopes use. */
export interface Owned {
  /** The handle, or 0 once freed. */
  handle: Handle;
  /** The scope that frees it; null if the garbage collector does. */
  owner: Scope | null;
}

// The innermost synchronous scope. It is set and reset within one turn of the event loop, so tasks that interleave at
// an `await` never share it; scopes of async functions are found through their async context instead.
let current: Scope | null = null;
let asyncScopes = 0;
const asyncScope = new AsyncLocalStorage<Scope>();

function innermost(): Scope | null {
  if (current !== null) return current;
  if (asyncScopes === 0) return null;
  const scope = asyncScope.getStore();
  return scope !== undefined && !scope.closed ? scope : null;
}

const AsyncFunction = (async () => {}).constructor;

/** A set of tensors that are freed together. Created by {@link scope} and {@link openScope}. */
export class Scope implements Disposable {
  readonly tensors: Owned[] = [];
  closed = false;
  readonly #parent: Scope | null;
  /** The previous current scope, while this one is entered. */
  #before: Scope | null = null;
  #entered = false;
  #crossedAwait = false;

  constructor(parent: Scope | null) {
    this.#parent = parent;
  }

  /** Makes this the current scope until it is disposed, which must happen before the next `await`. */
  enter(): this {
    this.#entered = true;
    this.#before = current;
    current = this;
    queueMicrotask(() => {
      if (!this.#entered) return;
      // Still open at the end of the turn, because the code awaited. No synchronous code runs now, so no scope is
      // current.
      this.#entered = false;
      this.#crossedAwait = true;
      current = null;
    });
    return this;
  }

  /** Frees the scope's tensors, except those in `result`, which move to the enclosing scope. */
  close(result?: unknown): void {
    if (this.closed) return;
    this.closed = true;
    const parent = this.#parent !== null && !this.#parent.closed ? this.#parent : null;
    forEachTensor(result, (tensor) => {
      if (tensor.owner === this) adopt(tensor, parent);
    });
    const { scratch } = native;
    let count = 0;
    for (const tensor of this.tensors) {
      if (tensor.owner !== this || tensor.handle === 0) continue;
      scratch[count++] = tensor.handle;
      tensor.handle = 0;
      if (count === scratch.length) {
        native.freeMany(count);
        count = 0;
      }
    }
    if (count > 0) native.freeMany(count);
    this.tensors.length = 0;
  }

  [Symbol.dispose](): void {
    if (this.closed) return;
    if (this.#entered) {
      this.#entered = false;
      if (current === this) current = this.#before;
    }
    if (!this.#crossedAwait) {
      this.close();
      return;
    }
    // Tensors of other tasks may have been added to it before the turn ended, so none is freed here.
    this.closed = true;
    for (const tensor of this.tensors) if (tensor.owner === this && tensor.handle !== 0) adopt(tensor, null);
    this.tensors.length = 0;
    throw new TorchError(
      "TORCH_SCOPE",
      "openScope() was held across an await, where tensors of other tasks can be added to it. Its tensors are left to the " +
        "garbage collector: use `await scope(async () => { ... })`, which follows the task",
    );
  }

  static run<T>(fn: () => T): T {
    const parent = innermost();
    if (fn instanceof AsyncFunction) return Scope.#runAsync(fn as () => Promise<unknown>, parent) as T;
    const inner = new Scope(parent);
    const before = current;
    current = inner;
    let result: T;
    try {
      result = fn();
      if (result instanceof Promise) {
        result.catch(() => {});
        throw new TorchError(
          "TORCH_SCOPE",
          "scope(fn): fn returned a promise but is not an `async` function, so the scope cannot follow it: write `scope(async () => ...)`",
        );
      }
    } catch (error) {
      current = before;
      inner.close();
      throw error;
    }
    current = before;
    inner.close(result);
    return result;
  }

  static async #runAsync<T>(fn: () => Promise<T>, parent: Scope | null): Promise<T> {
    const inner = new Scope(parent);
    const before = current;
    current = null; // the first turn of the function runs synchronously here
    asyncScopes++;
    let promise: Promise<T>;
    try {
      promise = asyncScope.run(inner, fn);
    } finally {
      current = before;
    }
    try {
      const result = await promise;
      inner.close(result);
      return result;
    } catch (error) {
      inner.close();
      throw error;
    } finally {
      asyncScopes--;
    }
  }
}

/** Moves a tensor to a scope, or to the garbage collector without one. */
function adopt(tensor: Owned, scope: Scope | null): void {
  tensor.owner = scope;
  if (scope !== null) scope.tensors.push(tensor);
  else leaveToCollector(tensor, tensor.handle);
}

/** Registers a new tensor with the current scope. */
export function track(tensor: Owned): void {
  const scope = current !== null ? current : innermost();
  tensor.owner = scope;
  if (scope !== null) scope.tensors.push(tensor);
  else leaveToCollector(tensor, tensor.handle);
}

/** Frees one tensor now. */
export function release(tensor: Owned): void {
  if (tensor.handle === 0) return;
  tensor.owner = null;
  native.free(tensor.handle);
  tensor.handle = 0;
}

function forEachTensor(value: unknown, visit: (tensor: Owned) => void, depth = 0): void {
  if (value === null || typeof value !== "object" || depth > 8) return;
  if ("handle" in value && "owner" in value && "dispose" in value) visit(value as Owned);
  else if (Array.isArray(value)) for (const item of value) forEachTensor(item, visit, depth + 1);
  else if (value instanceof Map || value instanceof Set)
    for (const item of value.values()) forEachTensor(item, visit, depth + 1);
  else if (Object.getPrototypeOf(value) === Object.prototype || Object.getPrototypeOf(value) === null)
    for (const item of Object.values(value)) forEachTensor(item, visit, depth + 1);
}

/**
 * Runs `fn` and frees every tensor that was created inside and is not part of the result. Tensors in the result
 * (itself, or inside arrays, plain objects, Maps and Sets) move to the enclosing scope.
 *
 * The scope of an `async` function spans its awaits; interleaved tasks have separate scopes.
 */
export function scope<T>(fn: () => T): T {
  return Scope.run(fn);
}

/**
 * Opens a scope until the end of the block: `using s = openScope()`. For synchronous code only: a block that awaits
 * throws TORCH_SCOPE at its end. {@link keep} removes a tensor from the scope.
 */
export function openScope(): Scope {
  return new Scope(innermost()).enter();
}

/** The tensors in a value, including those inside arrays, plain objects, Maps and Sets. */
export function ownedIn(value: unknown): Owned[] {
  const found: Owned[] = [];
  forEachTensor(value, (tensor) => void found.push(tensor));
  return found;
}

/**
 * Removes tensors from their scopes, for parameters and optimizer state. They live until they are disposed of or
 * garbage-collected.
 */
export function keep<T>(value: T): T {
  forEachTensor(value, (tensor) => {
    if (tensor.owner === null || tensor.handle === 0) return;
    adopt(tensor, null);
  });
  return value;
}
