import * as torch from "../torch/index.js";
import { DistributedError } from "./errors.js";
import type { ProcessGroup } from "./process-group.js";

type Tensor = torch.Tensor;

/**
 * Collectives that a gradient goes through. All members of the group must compute the same loss from their results: a
 * gradient that arrives at a tensor which all ranks hold alike is then the same on all of them, and counted once
 * (Megatron-LM's convention). torch.distributed.nn.functional takes the loss to be the sum of the ranks' losses instead.
 */

/**
 * The tensor itself; backward sums its gradient over the group. To stand where a tensor that all ranks hold alike is used
 * by each for a part of the work: Megatron-LM's f (copy_to_tensor_model_parallel_region).
 */
export function copyToGroup(x: Tensor, group: ProcessGroup): Tensor {
  const apply = torch.defineFunction<[Tensor], Tensor>({
    forward: (_, input) => input,
    backward: (_, gradient) => gradient && summed(gradient, group),
  });
  return apply(x);
}

/**
 * The sum of the ranks' tensors; backward passes the gradient on as it is. To stand where the parts of the work meet:
 * Megatron-LM's g (reduce_from_tensor_model_parallel_region). torch.distributed.nn.functional.all_reduce sums in its
 * backward, too, because there each rank has a loss of its own.
 */
export function reduceFromGroup(x: Tensor, group: ProcessGroup): Tensor {
  const apply = torch.defineFunction<[Tensor], Tensor>({
    forward: (_, input) => summed(input, group),
    backward: (_, gradient) => gradient,
  });
  return apply(x);
}

/**
 * The ranks' tensors one behind the other along `dim`; backward takes the own part of the gradient: Megatron-LM's
 * gather_from_tensor_model_parallel_region. torch.distributed.nn.functional.all_gather sums the parts' gradients over the
 * ranks, because there each rank has a loss of its own.
 *
 * @param total the length of the result along `dim`, when the ranks' parts are those of {@link chunkOf}; default: all
 *   ranks' parts are as long as this one's
 */
export function gatherFromGroup(x: Tensor, dim: number, group: ProcessGroup, total?: number): Tensor {
  const axis = axisOf(x, dim);
  const length = total ?? x.size(axis) * group.size;
  const own = chunkOf(length, group.rank, group.size);
  if (own.size !== x.size(axis)) {
    const message = `gatherFromGroup: rank ${group.rank} of ${group.size} holds ${own.size} of ${length}, not ${x.size(axis)}`;
    throw new DistributedError("DISTRIBUTED_ARGUMENT", message);
  }
  const apply = torch.defineFunction<[Tensor], Tensor>({
    forward: (_, input) => gathered(input, axis, length, group),
    backward: (_, gradient) => gradient?.narrow(axis, own.offset, own.size) ?? null,
  });
  return apply(x);
}

/**
 * The own part along `dim` of a tensor that all ranks hold alike, see {@link chunkOf}; backward gathers the parts'
 * gradients: Megatron-LM's scatter_to_tensor_model_parallel_region.
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
 * A rank's part of `length` indices, as torch.chunk divides: all but the last parts have ceil(length / ranks) of them, the
 * last that is not empty has the rest.
 */
export function chunkOf(length: number, rank: number, ranks: number): { offset: number; size: number } {
  const chunk = Math.ceil(length / ranks);
  const offset = Math.min(rank * chunk, length);
  return { offset, size: Math.min(chunk, length - offset) };
}

/** A copy: others may read the tensor itself. */
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
  throw new DistributedError("DISTRIBUTED_ARGUMENT", `dimension ${dim} of a tensor with ${x.ndim} dimensions`);
}
