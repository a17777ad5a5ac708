import { guard } from "./errors.js";
import { native } from "./native.js";
import { checkOptions } from "./options.js";
import { keep, type Owned, ownedIn, release, scope } from "./scope.js";

const collected = new FinalizationRegistry<number>((handle) => native.cudaGraphFree(handle));

/** Options of {@link CUDAGraph}. */
export interface CUDAGraphOptions {
  /** Index of the device; default 0. */
  device?: number;
  /** Memory that graphs share, from {@link graphPoolHandle}; default: memory of its own. */
  pool?: number;
}

/**
 * Work on a device that is recorded once and launched again as one: torch.cuda.CUDAGraph. What takes longer to launch
 * than to compute, as a decoder's pass over a few tokens, then runs at the device's speed.
 *
 * A recording is of kernels and addresses: it reads its inputs from the tensors it was recorded with, which the caller
 * fills anew and keeps alive, and no code of JavaScript runs in a replay. The work may not make tensors from host data,
 * read values or do anything else the host would wait for.
 */
export class CUDAGraph implements Disposable {
  #handle: number;
  #outputs: Owned[] = [];

  /** @throws TorchError TORCH_CUDA_UNAVAILABLE without a device or a CUDA build, TORCH_VALUE for a device that is not there */
  constructor(options: CUDAGraphOptions = {}) {
    options = checkOptions("cuda.CUDAGraph", options, ["device", "pool"]);
    const { device = 0, pool = 0 } = options;
    this.#handle = guard("cuda.CUDAGraph", () => native.cudaGraphCreate(device, pool));
    collected.register(this, this.#handle, this);
  }

  /**
   * Runs the work without recording it, on the stream it will be recorded on: libraries make what they need at first use,
   * which cannot be recorded.
   *
   * @param fn synchronous
   * @returns what `fn` returns
   */
  warmUp<T>(fn: () => T): T {
    return this.#enter("cuda.CUDAGraph.warmUp", (run) => native.cudaGraphWarmUp(this.#handle, run), fn);
  }

  /**
   * Records the work; nothing is computed before {@link replay}. A recording that fails leaves the graph empty and the
   * device as it was.
   *
   * @param fn synchronous, without anything the host waits for
   * @returns what `fn` returns. Tensors in it live as long as the graph: every replay writes them anew
   * @throws TorchError TORCH_VALUE when there is a recording already, and whatever `fn` runs into
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

  /** Launches the recording on the current stream. @throws TorchError TORCH_VALUE when there is none */
  replay(): void {
    guard("cuda.CUDAGraph.replay", () => native.cudaGraphReplay(this.#handle));
  }

  /** Frees the recording, its memory and the tensors that {@link capture} returned. */
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
 * Memory for several graphs of one device: torch.cuda.graph_pool_handle. They may share it when no two of them run at once
 * and what one returned is no longer needed when another is replayed.
 */
export function graphPoolHandle(): number {
  return guard("cuda.graphPoolHandle", () => native.cudaGraphPool());
}
