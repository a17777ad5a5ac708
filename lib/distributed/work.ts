import { DistributedError } from "./errors.js";
import { asDistributedError } from "./failure.js";
import { c10d, type NativeId } from "./native.js";

/** What this process spent on communication: for metrics and benchmarks. */
export interface CommunicationStats {
  /** Seconds that this process stood still for, waiting for works. On CUDA the stream waits instead, and this is near 0. */
  waitSeconds: number;
  /** Collectives and messages begun. */
  calls: number;
  /** Bytes that this rank sends, by the cost of ring algorithms: see {@link ProcessGroup}. */
  bytes: number;
}

/** Since the process began; the difference of two readings is what happened in between. */
export const communication: CommunicationStats = { waitSeconds: 0, calls: 0, bytes: 0 };

/**
 * A collective or message under way. `work.wait()` blocks until its result is there (on CUDA the stream waits, as in
 * PyTorch); `await work` lets the event loop go on. The tensors must not be changed before. Work that nobody waits for
 * still takes place.
 */
export class Work implements PromiseLike<void> {
  #id: NativeId;
  #promise: Promise<void> | undefined;
  #isAwaited = false;
  readonly #what: string;

  /** For the library. */
  constructor(id: NativeId, what: string) {
    this.#id = id;
    this.#what = what;
    communication.calls++;
  }

  /**
   * Blocks until the work is done. A second call does nothing.
   *
   * @returns where a message from any rank came from, otherwise -1
   * @throws DistributedError DISTRIBUTED_TIMEOUT, DISTRIBUTED_PEER, DISTRIBUTED_STATE for one that is being awaited
   */
  wait(): number {
    if (this.#isAwaited) throw new DistributedError("DISTRIBUTED_STATE", `${this.#what}: it is awaited already`);
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

  // biome-ignore lint/suspicious/noThenProperty: to be awaited is what a work is for
  then<A = void, B = never>(
    // biome-ignore lint/suspicious/noConfusingVoidType: PromiseLike<void> says so
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
