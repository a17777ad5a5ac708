import { functional, Linear, type Module, RMSNorm, wrapForward } from "../../nn/index.js";
import * as torch from "../../torch/index.js";
import { copyToGroup, reduceFromGroup } from "../differentiable.js";
import { DistributedError } from "../errors.js";
import type { ProcessGroup } from "../process-group.js";
import type { ParallelStyle, Share } from "./parallel-style.js";

type Tensor = torch.Tensor;

/** Units of a projection's features that must not be split. */
export interface FeatureUnits {
  /** Features that stay together, such as a head's. Default 1. */
  unit?: number;
  /** Name of the units, for messages. Default "features". */
  unitName?: string;
}

/**
 * A Linear whose outputs are split over the ranks: each rank has rows of the weight and of the bias and returns its
 * part of the output (ColwiseParallel in PyTorch, Megatron-LM's ColumnParallelLinear). The input is the same on all
 * ranks; its gradient is summed over them, here or by an enclosing {@link sharedInput}.
 *
 * @param replicate if there are fewer units than ranks, several ranks share a unit, and its gradient is summed over
 *   them
 */
export function columnwise(options: FeatureUnits & { replicate?: boolean } = {}): ParallelStyle {
  const { unit = 1, unitName = "features", replicate = false } = options;
  return {
    prepare(module, { path, group, isInputShared, split }) {
      const linear = linearAt(path, module, "columnwise");
      const outFeatures = linear.weight.size(0);
      const units = outFeatures / unit;
      const sharers = replicate && units < group.size ? group.size / units : 1;
      if (!Number.isInteger(sharers)) {
        throw wrong(`'${path}': ${units} ${unitName} and ${group.size} ranks do not divide each other`);
      }
      const first = group.rank - (group.rank % sharers);
      const size = sharers > 1 ? unit : dividedBy(group, units, path, unitName) * unit;
      const share: Share = {
        dim: 0,
        offset: (first / sharers) * size,
        size,
        copies: sharers,
        owned: group.rank === first,
      };
      split(linear.weight, share);
      if (linear.bias) split(linear.bias, share);
      return () => {
        if (sharers > 1) {
          const own = (tensor: Tensor) => sumGradientOver(tensor, group, first, sharers);
          wrapForward(linear, () => (x) => functional.linear(x, own(linear.weight), linear.bias && own(linear.bias)));
        }
        if (!isInputShared) wrapForward(linear, (forward) => (x) => forward(copyToGroup(x, group)));
      };
    },
  };
}

/**
 * A Linear whose inputs are split over the ranks, as {@link columnwise} returns them: each rank has columns of the
 * weight. The outputs are summed over the ranks, and the replicated bias is added once (RowwiseParallel in PyTorch,
 * Megatron-LM's RowParallelLinear).
 */
export function rowwise({ unit = 1, unitName = "features" }: FeatureUnits = {}): ParallelStyle {
  return {
    prepare(module, { path, group, split }) {
      const linear = linearAt(path, module, "rowwise");
      const size = dividedBy(group, linear.weight.size(1) / unit, path, unitName) * unit;
      split(linear.weight, { dim: 1, offset: group.rank * size, size });
      return () => {
        wrapForward(linear, () => (x) => {
          const sum = reduceFromGroup(functional.linear(x, linear.weight), group);
          return linear.bias ? sum.add(linear.bias.to({ dtype: sum.dtype })) : sum;
        });
      };
    },
  };
}

/**
 * A block with a replicated first argument of which each rank computes a part. The argument's gradient is summed over
 * the ranks once, instead of in every {@link columnwise} projection inside (PrepareModuleInput in PyTorch).
 */
export function sharedInput(): ParallelStyle {
  return {
    sharesInput: true,
    prepare(module, { group }) {
      const block = module as Module & { forward(x: Tensor, ...rest: unknown[]): unknown };
      return () => {
        wrapForward(
          block,
          (forward) =>
            (x, ...rest) =>
              forward(copyToGroup(x, group), ...rest),
        );
      };
    },
  };
}

/**
 * A replicated RMSNorm that each rank applies to its own part of the activations, such as its heads. A rank computes
 * only its part of the weight's gradient, so the backward pass sums it over the group. All ranks then have
 * bit-identical gradients, as for other norms ("replicated_with_grad_allreduce" in transformers' plans).
 */
export function partialGradient(): ParallelStyle {
  return {
    prepare(module, { path, group }) {
      if (!(module instanceof RMSNorm)) {
        throw wrong(`'${path}' is a ${module.constructor.name}, but partialGradient() needs an RMSNorm`);
      }
      return () => {
        wrapForward(module, () => (x) => functional.rmsNorm(x, copyToGroup(module.weight, group), module.eps));
      };
    },
  };
}

/**
 * Identity in the forward pass; the backward pass sums the gradient over `count` ranks starting at `first`, in the same
 * order on all of them.
 */
function sumGradientOver(x: Tensor, group: ProcessGroup, first: number, count: number): Tensor {
  const apply = torch.defineFunction<[Tensor], Tensor>({
    forward: (_, input) => input,
    backward: (_, gradient) => {
      if (!gradient) return null;
      const { dtype, device, shape } = gradient;
      const all = torch.empty([group.size * gradient.numel()], { dtype, device });
      group.allGather(all, gradient.flatten()).wait();
      return all
        .view([group.size, ...shape])
        .narrow(0, first, count)
        .sum([0]);
    },
  });
  return apply(x);
}

function dividedBy(group: ProcessGroup, count: number, path: string, unitName: string): number {
  const each = count / group.size;
  if (Number.isInteger(each)) return each;
  throw wrong(`'${path}': ${count} ${unitName} are not divisible by ${group.size} ranks`);
}

function linearAt(path: string, module: Module, style: string): Linear {
  if (module instanceof Linear) return module;
  throw wrong(`'${path}' is a ${module.constructor.name}, but ${style}() needs a Linear`);
}

function wrong(message: string): DistributedError {
  return new DistributedError("DISTRIBUTED_ARGUMENT", `parallelizeModule: ${message}`);
}
