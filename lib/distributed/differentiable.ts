import * as torch from "../torch/index.js";
import { DistributedError } from "./errors.js";
import type { ProcessGroup } from "./process-group.js";

type Tensor = torch.Tensor;

/**
 * Differentiable collectives. All members of the group must compute the same loss from the results: the gradient of a
 * replicated tensor is then equal on all ranks and counts once (Megatron-LM's convention).
 * torch.distributed.nn.functional assumes instead that the loss is the sum of the ranks' losses.
 */

/**
 * Identity in the forward pass, all-reduce of the gradient in the backward pass. Use it where each rank computes a part
 * from a replicated tensor: Megatron-LM's f (copy_to_tensor_model_parallel_region).
 */
export function copyToGroup(x: Tensor, group: ProcessGroup): Tensor {
  const apply = torch.defineFunction<[Tensor], Tensor>({
    forward: (_, input) => input,
    backward: (_, gradient) => gradient && summed(gradient, group),
  });
  return apply(x);
}

/**
 * All-reduce in the forward pass, identity in the backward pass. Use it where the ranks' parts are combined:
 * Megatron-LM's g (reduce_from_tensor_model_parallel_region). torch.distributed.nn.functional.all_reduce sums in its
 * backward pass, too, because it assumes a separate loss on each rank.
 */
export function reduceFromGroup(x: Tensor, group: ProcessGroup): Tensor {
  const apply = torch.defineFunction<[Tensor], Tensor>({
    forward: (_, input) => summed(input, group),
    backward: (_, gradient) => gradient,
  });
  return apply(x);
}

/**
 * Concatenates the ranks' tensors along `dim`; the backward pass returns this rank's part of the gradient:
 * Megatron-LM's gather_from_tensor_model_parallel_region. torch.distributed.nn.functional.all_gather sums the gradients
 * over the ranks, because it assumes a separate loss on each rank.
 *
 * @param total the length of the result along `dim`, if the parts are those of {@link chunkOf}; default: all parts have
 *   the length of this rank's part
 */
export function gatherFromGroup(x: Tensor, dim: number, group: ProcessGroup, total?: number): Tensor {
  const axis = axisOf(x, dim);
  const length = total ?? x.size(axis) * group.size;
  const own = chunkOf(length, group.rank, group.size);
  if (own.size !== x.size(axis)) {
    const message = `gatherFromGroup: rank ${group.rank} of ${group.size} must hold ${own.size} of ${length}, got ${x.size(axis)}`;
    throw new DistributedError("DISTRIBUTED_ARGUMENT", message);
  }
  const apply = torch.defineFunction<[Tensor], Tensor>({
    forward: (_, input) => gathered(input, axis, length, group),
    backward: (_, gradient) => gradient?.narrow(axis, own.offset, own.size) ?? null,
  });
  return apply(x);
}

/**
 * This rank's part along `dim` of a replicated tensor, see {@link chunkOf}; the backward pass gathers the gradients of
 * the parts: Megatron-LM's scatter_to_tensor_model_parallel_region.
 */
export function scatterToGroup(x: Tensor, dim: number, group: ProcessGroup): Tensor {
  const axis = axisOf(x, dim);
  const length = x.size(axis);
  const own = chunkOf(length, group.rank, group.size);
  const apply = torch.defineFunction<[Tensor], Tensor>({
    forward: (_, input) => input.narrow(axis, own.offset, own.size),
    backward: (_, gradient) => gradient && gathered(gradient, axis, length, group),
  });
  return apply(x);
}

/**
 * A rank's part of `length` indices, divided as in torch.chunk: parts of ceil(length / ranks), the last non-empty one
 * with the rest.
 */
export function chunkOf(length: number, rank: number, ranks: number): { offset: number; size: number } {
  const chunk = Math.ceil(length / ranks);
  const offset = Math.min(rank * chunk, length);
  return { offset, size: Math.min(chunk, length - offset) };
}

/** Sums a copy, because other code may read the tensor itself. */
function summed(x: Tensor, group: ProcessGroup): Tensor {
  const sum = x.isContiguous() ? x.clone() : x.contiguous();
  group.allReduce(sum).wait();
  return sum;
}

function gathered(x: Tensor, axis: number, length: number, group: ProcessGroup): Tensor {
  return torch.scope(() => {
    const chunk = Math.ceil(length / group.size);
    const rows = x.movedim(axis, 0);
    const [, ...rest] = rows.shape;
    const padded = torch.zeros([chunk, ...rest], { dtype: x.dtype, device: x.device });
    padded.narrow(0, 0, rows.size(0)).copy_(rows);
    const all = torch.empty([group.size * chunk, ...rest], { dtype: x.dtype, device: x.device });
    group.allGather(all, padded).wait();
    return all.narrow(0, 0, length).movedim(0, axis).contiguous();
  });
}

function axisOf(x: Tensor, dim: number): number {
  const axis = dim < 0 ? dim + x.ndim : dim;
  if (Number.isInteger(axis) && axis >= 0 && axis < x.ndim) return axis;
  throw new DistributedError(
    "DISTRIBUTED_ARGUMENT",
    `dimension ${dim} does not exist in a tensor with ${x.ndim} dimensions`,
  );
}
