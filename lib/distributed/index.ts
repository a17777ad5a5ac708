/**
 * Distributed training: `import * as distributed from "stable-diffcoder/distributed"`. Stores, process groups and
 * collectives of c10d (Gloo, NCCL), meshes, and data-parallel training of any module. It does not depend on language
 * models.
 */
export { DataParallel, type DataParallelOptions } from "./data-parallel/data-parallel.js";
export { copyToGroup, gatherFromGroup, reduceFromGroup, scatterToGroup } from "./differentiable.js";
export { DistributedError, type DistributedErrorCode } from "./errors.js";
export { type ExchangePlace, exchangeOverStore, type Fingerprint, requireAlike } from "./exchange.js";
export type { LaunchEnvironment } from "./launch-environment/variables.js";
export { DEFAULT_MASTER_PORT, readLaunchEnvironment } from "./launch-environment.js";
export { DeviceMesh } from "./mesh.js";
export { explainFailure } from "./post-mortem.js";
export { type Backend, ProcessGroup, type ProcessGroupOptions, type ReduceOperation } from "./process-group.js";
export { FileStore, HashStore, PrefixStore, Store, TCPStore } from "./store.js";
export * from "./tensor-parallel/index.js";
export { type LocalTensor, type TensorSlice, wholeSlice, wholeTensor } from "./tensor-slice.js";
export { type CommunicationStats, communication, Work } from "./work.js";
export {
  abortProcessGroup,
  destroyProcessGroup,
  type InitOptions,
  initProcessGroup,
  type World,
  world,
} from "./world.js";
