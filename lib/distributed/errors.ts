import { CodedError } from "../base/coded-error.js";

/** Codes of {@link DistributedError}, for programs; the message is for people. */
export type DistributedErrorCode =
  | "DISTRIBUTED_ENVIRONMENT" // incomplete or contradictory variables of a launcher
  | "DISTRIBUTED_TIMEOUT" // other processes did not arrive in time
  | "DISTRIBUTED_PEER" // another process died or cannot be reached
  | "DISTRIBUTED_ARGUMENT" // any other invalid argument
  | "DISTRIBUTED_STATE"; // a call before joining or after leaving the process group, or processes that differ

/** Every error of lib/distributed. `code` is stable, `message` names the rank, the variable or the value. */
export class DistributedError extends CodedError<DistributedErrorCode> {}
