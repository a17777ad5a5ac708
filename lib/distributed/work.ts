import { DistributedError } from "./errors.js";
import { asDistributedError } from "./failure.js";
import { c10d, type NativeId } from "./native.js";

/** Communication statistics of this process, for metrics and benchmarks. */
export interface CommunicationStats {
  /**
   * Seconds that this process was blocked while waiting for works. On CUDA the stream waits instead, and this is near
   * 0.
   */
  waitSeconds: number;
  /** Number of collectives and messages started. */
  calls: number;
  /** Bytes that this rank sends, computed for ring algorithms, see {@link ProcessGroup}. */
  bytes: number;
}

/** Totals since the process started; subtract two readings for an interval. */
export const communication: CommunicationStats = { waitSeconds: 0, calls: 0, bytes: 0 };

/**
 * A collective or message in progress. `work.wait()` blocks until its result is available (on CUDA the stream waits, as
 * in PyTorch); `await work` does not block the event loop. The tensors must not be changed before that. A work that is
 * never waited for still completes.
 */
export class Work implements PromiseLike<void> {
  #id: NativeId;
  #promise: Promise<void> | undefined;
  #isAwaited = false;
  readonly #what: string;

  /** Internal. */
  constructor(id: NativeId, what: string) {
    this.#id = id;
    this.#what = what;
    communication.calls++;
  }

  /**
   * Blocks until the work is done. A second call does nothing.
   *
   * @returns the source rank of a message received from any rank, otherwise -1
   * @throws DistributedError DISTRIBUTED_TIMEOUT, DISTRIBUTED_PEER, DISTRIBUTED_STATE if it is being awaited
   */
  wait(): number {
    if (this.#isAwaited)
      throw new DistributedError("DISTRIBUTED_STATE", `${this.#what}cannot wait for it, because it is already awaited`);
    if (this.#id === 0) return -1;
    const id = this.#id;
    this.#id = 0;
    const start = performance.now();
    try {
      return c10d.waitForWork(id);
    } catch (error) {
      throw asDistributedError(error, this.#what);
    } finally {
      communication.waitSeconds += (performance.now() - start) / 1000;
    }
  }

  /** Whether the work is done, or failed. */
  get isCompleted(): boolean {
    return !this.#isAwaited && (this.#id === 0 || c10d.isWorkDone(this.#id));
  }

  // biome-ignore lint/suspicious/noThenProperty: a work is meant to be awaited
  then<A = void, B = never>(
    // biome-ignore lint/suspicious/noConfusingVoidType: the type of PromiseLike<void>
    fulfilled?: ((value: void) => A | PromiseLike<A>) | null,
    rejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.#promise ??= this.#settle();
    return this.#promise.then(fulfilled, rejected);
  }

  async #settle(): Promise<void> {
    if (this.#id === 0) return;
    const id = this.#id;
    this.#id = 0;
    this.#isAwaited = true;
    const start = performance.now();
    try {
      await c10d.awaitWork(id);
    } catch (error) {
      throw asDistributedError(error, this.#what);
    } finally {
      this.#isAwaited = false;
      communication.waitSeconds += (performance.now() - start) / 1000;
    }
  }
}
