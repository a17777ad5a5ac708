import type { Tensor } from "../../torch/index.js";
import * as torch from "../../torch/index.js";
import type { RingGroup } from "./ring-group.js";

/** One step around the ring, under way. */
export interface Step {
  /** What came from the rank before, of the same shape and dtype as what was sent, which is freed. */
  arrived(): Tensor;
}

/**
 * Sends a tensor to the next rank while the one of the rank before arrives. All ranks of the group must call it, in the
 * same order. The tensor is given away: it may be read until {@link Step.arrived}.
 */
export function passOn(group: RingGroup, tensor: Tensor): Step {
  const { rank, size } = group;
  const received = torch.emptyLike(tensor);
  const send = () => group.send(tensor, (rank + 1) % size);
  const receive = () => group.recv(received, (rank + size - 1) % size);
  // NCCL runs the transfers of a pair of ranks in the order they were asked for, and a send waits for its receive: two
  // neighbours that both began with the send would wait for ever.
  const pending = rank % 2 === 0 ? [send(), receive()] : [receive(), send()];
  return {
    arrived() {
      for (const work of pending) work.wait();
      tensor.dispose();
      return received;
    },
  };
}
