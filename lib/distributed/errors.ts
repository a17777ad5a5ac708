import { CodedError } from "../base/coded-error.js";

/** What can go wrong between processes, for programs; the message is for people. */
export type DistributedErrorCode =
  | "DISTRIBUTED_ENVIRONMENT" // a launcher's variables that are incomplete or contradict each other
  | "DISTRIBUTED_TIMEOUT" // others did not come in time
  | "DISTRIBUTED_PEER" // another process died or cannot be reached
  | "DISTRIBUTED_ARGUMENT" // anything else a caller got wrong
  | "DISTRIBUTED_STATE"; // a call before the processes met, or after they parted

/** Every error of lib/distributed. `code` is stable, `message` names the rank, the variable or the value. */
export class DistributedError extends CodedError<DistributedErrorCode> {}
