import { type Handle, native } from "../torch/native.js";

/** Handle of a store, group or work in the addon's tables. */
export type NativeId = number;

/** The c10d functions of the addon, see native/distributed/. Timeouts are in seconds. */
export interface NativeDistributed {
  tcpStore(host: string, port: number, isServer: boolean, timeout: number, listenHost: string): Promise<NativeId>;
  tcpStorePort(store: NativeId): number;
  fileStore(path: string, worldSize: number): NativeId;
  hashStore(): NativeId;
  prefixStore(prefix: string, store: NativeId): NativeId;
  closeStore(store: NativeId): boolean;
  storeSet(store: NativeId, key: string, value: string | Uint8Array): void;
  storeGet(store: NativeId, key: string, timeout: number): Promise<Uint8Array>;
  storeWait(store: NativeId, keys: readonly string[], timeout: number): Promise<void>;
  storeCheck(store: NativeId, keys: readonly string[]): boolean;
  storeAdd(store: NativeId, key: string, amount: number): number;
  storeDelete(store: NativeId, key: string): boolean;
  storeCompareSet(
    store: NativeId,
    key: string,
    expected: string | Uint8Array,
    desired: string | Uint8Array,
  ): Uint8Array;
  storeNumKeys(store: NativeId): number;

  createGroup(
    backend: string,
    store: NativeId,
    rank: number,
    size: number,
    timeout: number,
    name: string,
  ): Promise<NativeId>;
  hasNccl(): boolean;
  destroyGroup(group: NativeId): Promise<void>;
  abortGroup(group: NativeId): void;
  setGroupTimeout(group: NativeId, timeout: number): void;
  monitoredBarrier(group: NativeId, timeout: number): Promise<void>;

  allReduce(group: NativeId, tensors: readonly Handle[], op: string): NativeId;
  broadcast(group: NativeId, tensor: Handle, source: number): NativeId;
  reduce(group: NativeId, tensor: Handle, destination: number, op: string): NativeId;
  allGather(group: NativeId, output: Handle, input: Handle): NativeId;
  allGatherList(group: NativeId, outputs: readonly Handle[], input: Handle): NativeId;
  reduceScatter(group: NativeId, output: Handle, input: Handle, op: string): NativeId;
  gather(group: NativeId, outputs: readonly Handle[], input: Handle, destination: number): NativeId;
  scatter(group: NativeId, output: Handle, inputs: readonly Handle[], source: number): NativeId;
  allToAll(
    group: NativeId,
    output: Handle,
    input: Handle,
    outputSizes: readonly number[],
    inputSizes: readonly number[],
  ): NativeId;
  send(group: NativeId, tensor: Handle, destination: number, tag: number): NativeId;
  receive(group: NativeId, tensor: Handle, source: number, tag: number): NativeId;
  barrier(group: NativeId, deviceIndex: number): NativeId;
  waitForWork(work: NativeId): number;
  isWorkDone(work: NativeId): boolean;
  awaitWork(work: NativeId): Promise<void>;

  resizeStorage(tensor: Handle, bytes: number): void;
}

export const c10d = native as unknown as NativeDistributed;
