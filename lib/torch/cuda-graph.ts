import { guard } from "./errors.js";
import { native } from "./native.js";
import { checkOptions } from "./options.js";
import { keep, type Owned, ownedIn, release, scope } from "./scope.js";

const collected = new FinalizationRegistry<number>((handle) => native.cudaGraphFree(handle));

/** Options of {@link CUDAGraph}. */
export interface CUDAGraphOptions {
  /** Index of the device; default 0. */
  device?: number;
  /** Memory pool shared by several graphs, from {@link graphPoolHandle}; default: a private pool. */
  pool?: number;
}

/**
 * Device work that is captured once and replayed with a single launch: torch.cuda.CUDAGraph. It removes the launch
 * overhead of work that takes longer to launch than to compute, such as a decoder's pass over a few tokens.
 *
 * A graph consists of kernels and addresses. It reads its inputs from the tensors used in the capture, which the caller
 * overwrites and keeps alive; JavaScript code does not run in a replay. The captured work must not create tensors from
 * host data, read values or synchronize with the device in any other way.
 */
export class CUDAGraph implements Disposable {
  #handle: number;
  #outputs: Owned[] = [];

  /**
   * @throws TorchError TORCH_CUDA_UNAVAILABLE without a device or a CUDA build, TORCH_VALUE for a device that does not
   * exist
   */
  constructor(options: CUDAGraphOptions = {}) {
    options = checkOptions("cuda.CUDAGraph", options, ["device", "pool"]);
    const { device = 0, pool = 0 } = options;
    this.#handle = guard("cuda.CUDAGraph", () => native.cudaGraphCreate(device, pool));
    collected.register(this, this.#handle, this);
  }

  /**
   * Runs the work without capturing it, on the stream of the capture: libraries allocate their resources at first use,
   * which cannot be captured.
   *
   * @param fn synchronous
   * @returns what `fn` returns
   */
  warmUp<T>(fn: () => T): T {
    return this.#enter("cuda.CUDAGraph.warmUp", (run) => native.cudaGraphWarmUp(this.#handle, run), fn);
  }

  /**
   * Captures the work; nothing is computed before {@link replay}. A capture that fails leaves the graph empty and the
   * device unchanged.
   *
   * @param fn synchronous, and without synchronizing with the device
   * @returns what `fn` returns. Tensors in it live as long as the graph; every replay overwrites them
   * @throws TorchError TORCH_VALUE if the graph was already captured, and any error of `fn`
   */
  capture<T>(fn: () => T): T {
    const result = this.#enter(
      "cuda.CUDAGraph.capture",
      (run) => native.cudaGraphCapture(this.#handle, run),
      () => keep(scope(fn)),
    );
    this.#outputs = ownedIn(result);
    return result;
  }

  /** Launches the graph on the current stream. @throws TorchError TORCH_VALUE if nothing was captured */
  replay(): void {
    guard("cuda.CUDAGraph.replay", () => native.cudaGraphReplay(this.#handle));
  }

  /** Frees the graph, its memory and the tensors that {@link capture} returned. */
  dispose(): void {
    if (this.#handle === 0) return;
    collected.unregister(this);
    for (const tensor of this.#outputs) release(tensor);
    native.cudaGraphFree(this.#handle);
    this.#handle = 0;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #enter<T>(operator: string, enter: (run: () => void) => void, fn: () => T): T {
    let result: { value: T } | undefined;
    guard(operator, () =>
      enter(() => {
        result = { value: fn() };
      }),
    );
    return (result as { value: T }).value;
  }
}

/**
 * A memory pool for several graphs of one device: torch.cuda.graph_pool_handle. Graphs can share a pool if they never
 * run at the same time and the outputs of one are no longer needed when another is replayed.
 */
export function graphPoolHandle(): number {
  return guard("cuda.graphPoolHandle", () => native.cudaGraphPool());
}
