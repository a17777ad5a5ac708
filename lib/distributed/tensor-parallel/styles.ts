import { functional, Linear, type Module, RMSNorm, wrapForward } from "../../nn/index.js";
import * as torch from "../../torch/index.js";
import { copyToGroup, reduceFromGroup } from "../differentiable.js";
import { DistributedError } from "../errors.js";
import type { ProcessGroup } from "../process-group.js";
import type { ParallelStyle, Share } from "./parallel-style.js";

type Tensor = torch.Tensor;

/** What a projection's features are made of, where they must not be cut anywhere. */
export interface FeatureUnits {
  /** Features that stay together, such as a head's. Default 1. */
  unit?: number;
  /** What a unit is, for messages. Default "features". */
  unitName?: string;
}

/**
 * A Linear whose outputs are divided among the ranks: each has rows of the weight and of the bias, and gives its part of
 * the output (ColwiseParallel in PyTorch, Megatron-LM's ColumnParallelLinear). The input is the same on all ranks; its
 * gradient is summed over them, here or by a {@link sharedInput} around.
 *
 * @param replicate where there are fewer units than ranks, several ranks share a unit, and its gradient is their sum
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
        throw wrong(`'${path}': ${units} ${unitName} neither divide ${group.size} ranks nor are divided by them`);
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
 * A Linear whose inputs are divided among the ranks, as {@link columnwise} gives them: each has columns of the weight; the
 * outputs are summed over the ranks, and the bias, which all have, is added once (RowwiseParallel in PyTorch, Megatron-LM's
 * RowParallelLinear).
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
 * A block whose first argument all ranks hold alike, and of which each computes a part: the argument's gradient is summed
 * over the ranks once, instead of in every {@link columnwise} projection inside (PrepareModuleInput in PyTorch).
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
 * An RMSNorm that all ranks hold whole, and each applies to its own part of the activations, such as its heads. A rank sees
 * only that part of the weight's gradient: backward sums it over the group, so that all ranks have the whole one, bit for
 * bit, as they have of other norms ("replicated_with_grad_allreduce" in transformers' plans).
 */
export function partialGradient(): ParallelStyle {
  return {
    prepare(module, { path, group }) {
      if (!(module instanceof RMSNorm)) {
        throw wrong(`'${path}' is a ${module.constructor.name}, and partialGradient() needs an RMSNorm`);
      }
      return () => {
        wrapForward(module, () => (x) => functional.rmsNorm(x, copyToGroup(module.weight, group), module.eps));
      };
    },
  };
}

/** The tensor itself; backward sums its gradient over `count` ranks from `first` on, in the same order on all of them. */
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
  throw wrong(`'${path}' is a ${module.constructor.name}, and ${style}() needs a Linear`);
}

function wrong(message: string): DistributedError {
  return new DistributedError("DISTRIBUTED_ARGUMENT", `parallelizeModule: ${message}`);
}
