import { statSync } from "node:fs";
import { dirname } from "node:path";
import { DistributedError } from "./errors.js";
import { guarded, guardedAsync } from "./failure.js";
import { c10d, type NativeId } from "./native.js";

/** Default timeout of connecting and waiting, in seconds. */
export const DEFAULT_TIMEOUT = 300;

/**
 * The key-value store through which processes find each other (torch.distributed.Store). Values are bytes; strings are
 * encoded as UTF-8.
 */
export abstract class Store implements Disposable {
  #id: NativeId;

  protected constructor(id: NativeId) {
    this.#id = id;
  }

  /** Internal: the store's handle in the addon. */
  get id(): NativeId {
    if (this.#id === 0) throw new DistributedError("DISTRIBUTED_STATE", "the store was closed");
    return this.#id;
  }

  /** Sets a key. A TCPStore's other connections may see it a moment later. */
  set(key: string, value: string | Uint8Array): void {
    guarded(`Store.set('${key}')`, () => c10d.storeSet(this.id, key, value));
  }

  /**
   * The value of a key; waits until some process has set it.
   *
   * @param timeout seconds
   * @throws DistributedError DISTRIBUTED_TIMEOUT
   */
  async get(key: string, timeout = DEFAULT_TIMEOUT): Promise<Uint8Array> {
    return await guardedAsync(`Store.get('${key}')`, () => c10d.storeGet(this.id, key, timeout));
  }

  /** {@link get} as text. */
  async getText(key: string, timeout = DEFAULT_TIMEOUT): Promise<string> {
    return new TextDecoder().decode(await this.get(key, timeout));
  }

  /** Waits until all keys are set. */
  async wait(keys: readonly string[], timeout = DEFAULT_TIMEOUT): Promise<void> {
    await guardedAsync(`Store.wait([${keys.join(", ")}])`, () => c10d.storeWait(this.id, keys, timeout));
  }

  /** Whether all keys are set. Does not wait. */
  check(keys: readonly string[]): boolean {
    return guarded("Store.check", () => c10d.storeCheck(this.id, keys));
  }

  /** Adds to a counter, which starts at 0, and returns its new value. */
  add(key: string, amount: number): number {
    return guarded(`Store.add('${key}')`, () => c10d.storeAdd(this.id, key, amount));
  }

  /** Deletes a key. Returns whether it existed; a FileStore always returns true. */
  deleteKey(key: string): boolean {
    return guarded(`Store.deleteKey('${key}')`, () => c10d.storeDelete(this.id, key));
  }

  /** Sets a key if its value is `expected` ("" for a key that is not set), and returns its new value. */
  compareSet(key: string, expected: string | Uint8Array, desired: string | Uint8Array): Uint8Array {
    return guarded(`Store.compareSet('${key}')`, () => c10d.storeCompareSet(this.id, key, expected, desired));
  }

  numKeys(): number {
    return guarded("Store.numKeys", () => c10d.storeNumKeys(this.id));
  }

  dispose(): void {
    if (this.#id !== 0) c10d.closeStore(this.#id);
    this.#id = 0;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** A store that one process serves over TCP: torch.distributed.TCPStore. */
export class TCPStore extends Store {
  readonly host: string;

  private constructor(id: NativeId, host: string) {
    super(id);
    this.host = host;
  }

  /**
   * Serves a store, or connects to the one that another process serves, and waits for it.
   *
   * @param options.listenHost the only address on which the server listens; default: `host`. "0.0.0.0", or a name other
   *   than "localhost" that resolves to the loopback address on this machine, means every address
   * @param options.port 0 with `isServer` selects a free port, see {@link port}
   * @param options.timeout seconds
   * @throws DistributedError DISTRIBUTED_TIMEOUT if no process serves the store, DISTRIBUTED_PEER if the port is in use
   */
  static async connect(options: {
    host: string;
    port: number;
    isServer?: boolean;
    listenHost?: string;
    timeout?: number;
  }): Promise<TCPStore> {
    const { host, port, isServer = false, listenHost = host, timeout = DEFAULT_TIMEOUT } = options;
    if (!Number.isInteger(port) || port < 0 || port > 65535) {
      throw new DistributedError("DISTRIBUTED_ARGUMENT", `TCPStore: ${port} is not a valid port`);
    }
    const what = `TCPStore ${isServer ? "at" : "connecting to"} ${host}:${port}`;
    return new TCPStore(await guardedAsync(what, () => c10d.tcpStore(host, port, isServer, timeout, listenHost)), host);
  }

  get port(): number {
    return guarded("TCPStore.port", () => c10d.tcpStorePort(this.id));
  }
}

/** A store in a file that all processes can write: torch.distributed.FileStore. */
export class FileStore extends Store {
  /**
   * @param worldSize number of processes that open it; the last one to close it removes the file. 0: the file is kept
   */
  constructor(path: string, worldSize = 0) {
    // c10d would retry to open it for minutes and block this thread.
    const isFolder = (name: string) => statSync(name, { throwIfNoEntry: false })?.isDirectory() ?? false;
    if (!isFolder(dirname(path)) || isFolder(path)) {
      throw new DistributedError("DISTRIBUTED_ARGUMENT", `FileStore: '${path}' cannot be opened as a file`);
    }
    super(guarded("FileStore", () => c10d.fileStore(path, worldSize)));
  }
}

/** A store in this process's memory. */
export class HashStore extends Store {
  constructor() {
    super(c10d.hashStore());
  }
}

/** A view of another store in which all keys have a prefix: torch.distributed.PrefixStore. */
export class PrefixStore extends Store {
  constructor(prefix: string, store: Store) {
    super(c10d.prefixStore(prefix, store.id));
  }
}
