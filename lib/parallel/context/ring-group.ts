import type { Tensor } from "../../torch/index.js";

/** A transfer or collective under way. */
export interface Pending {
  /** Until the tensors may be used; on a device that is an order to its stream. */
  wait(): unknown;
}

/** What context parallelism needs of a process group. */
export interface RingGroup {
  readonly rank: number;
  readonly size: number;
  /** Must not wait for the other side. Messages of one pair of ranks arrive in the order sent. */
  send(tensor: Tensor, destination: number): Pending;
  recv(tensor: Tensor, source: number): Pending;
  /** The sum over all ranks, in place. */
  allReduce(tensor: Tensor): Pending;
}
