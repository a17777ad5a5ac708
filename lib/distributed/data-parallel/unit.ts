import * as torch from "../../torch/index.js";
import type { LocalTensor } from "../tensor-slice.js";

/**
 * Parameters whose gradients travel together: one segment of a model, such as a decoder layer. The four moments are those
 * of FSDP2's hooks; what a unit does in them is the difference between replicated and sharded training.
 */
export interface Unit extends Disposable {
  /** Its parameters are about to be used. */
  beforeForward(): void;
  afterForward(): void;
  /** The gradient of its outputs is there. */
  beforeBackward(): void;
  /** The gradients of all its parameters are there. `isLast`: of the step's micro-batches. */
  afterBackward(isLast: boolean): void;
  /** Begins what may be begun early, before the unit's own turn. */
  prefetch(): void;
  /** Takes in a reduction that {@link afterBackward} began. The unit before this one calls it when its own has begun. */
  settle(): void;
  /** Waits for whatever is under way; the gradients are then on the parameters, summed over all ranks. */
  finish(): void;
  /** Parameters are as between steps afterwards. */
  release(): void;
  /** This rank's part of each parameter. */
  local(): LocalTensor[];
}

/** What a parameter's gradients are summed over ranks in: sums of many in a smaller dtype lose what distinguishes them. */
export function reduceDtype({ dtype }: torch.Tensor): torch.DType {
  return dtype === "float64" ? "float64" : "float32";
}

/** Gradients, with zeros for those that this rank's data did not need: all ranks must send the same. */
export function gradientsOf(parameters: readonly torch.Tensor[]): torch.Tensor[] {
  // Not of the values: there may be none, as of a sharded parameter that is not gathered.
  return parameters.map(({ grad, shape, dtype, device }) => grad ?? torch.zeros(shape, { dtype, device }));
}
