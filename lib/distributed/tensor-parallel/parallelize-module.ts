import { type Module, parameter } from "../../nn/index.js";
import * as torch from "../../torch/index.js";
import { parameterSlots } from "../data-parallel/parameter-slot.js";
import { DistributedError } from "../errors.js";
import type { ProcessGroup } from "../process-group.js";
import { type TensorSlice, wholeSlice } from "../tensor-slice.js";
import type { ParallelStyle, Share } from "./parallel-style.js";

type Tensor = torch.Tensor;

/** Styles by the path of their modules; `*` matches one component of a path: `layers.*.mlp.downProj`. */
export type ParallelPlan = Readonly<Record<string, ParallelStyle>>;

/**
 * Parallelizes a module over a group, so that its ranks compute one forward pass together:
 * torch.distributed.tensor.parallel.parallelize_module. Parameters are replaced by this rank's parts and the whole ones
 * are freed, so create optimizers afterwards. Forward methods are wrapped where ranks must communicate. All ranks must
 * start with the same module and call it with the same inputs. If an error is thrown, nothing has changed.
 *
 * @returns the placement of every parameter, including those that the plan does not split
 * @throws DistributedError DISTRIBUTED_ARGUMENT naming the path that matches no module, the size that is not divisible,
 *   or a module that the plan omits although each rank would compute only a part of its parameters' gradient
 */
export function parallelizeModule(module: Module, group: ProcessGroup, plan: ParallelPlan): ParameterPlacements {
  const matches = Object.entries(plan).flatMap(([pattern, style]) => {
    const found = modulesMatching(module, pattern);
    if (found.length === 0) throw wrong(`the plan's path '${pattern}' matches no module`);
    return found.map(([path, part]) => ({ path, part, style }));
  });
  const sharing = matches.filter(({ style }) => style.sharesInput).map(({ path }) => path);
  const splits = new Map<Tensor, Share>();
  const wraps = matches.map(({ path, part, style }) => {
    const around = sharing.find((outer) => isInside(path, outer));
    if (style.sharesInput && around !== undefined) {
      throw wrong(`'${path}' is inside '${around}', which already shares its input`);
    }
    const split = (tensor: Tensor, share: Share) => {
      const known = splits.get(tensor);
      if (known && !sameShare(known, share)) throw wrong(`a parameter of '${path}' is split in two ways`);
      splits.set(tensor, share);
    };
    return style.prepare(part, { path, group, isInputShared: around !== undefined, split });
  });
  requireStyles(module, sharing, new Set(matches.map(({ path }) => path)));
  const parts = splitParameters(module, splits);
  for (const wrap of wraps) wrap();
  const whole = { placement: "replicated", copies: group.size, owned: group.rank === 0 } as const;
  return new Map(
    Array.from(module.namedParameters(), ([name, tensor]) => [
      name,
      parts.get(tensor) ?? { slice: wholeSlice(tensor.shape), ...whole },
    ]),
  );
}

/**
 * Checks that every module with parameters in a block with a shared input has a style. The ranks compute parts of such
 * a block, so a module without a style would silently get a different gradient on each rank.
 */
function requireStyles(module: Module, sharing: readonly string[], known: ReadonlySet<string>): void {
  for (const [path, part] of module.namedModules()) {
    const around = sharing.find((outer) => isInside(path, outer));
    if (around === undefined || known.has(path) || !hasOwnParameters(part)) continue;
    throw wrong(`ranks compute parts of '${around}', but the plan has no style for '${path}' in it: add one`);
  }
}

function hasOwnParameters(module: Module): boolean {
  return Object.values(module)
    .flat()
    .some((value) => value instanceof torch.Tensor);
}

/** Replaces whole parameters by this rank's parts and frees the whole ones. */
function splitParameters(module: Module, splits: ReadonlyMap<Tensor, Share>): Map<Tensor, ParameterPlacement> {
  const parts = new Map<Tensor, ParameterPlacement>();
  for (const { tensor, set } of parameterSlots(module)) {
    const share = splits.get(tensor);
    if (!share) continue;
    const { dim, offset, size, copies = 1, owned = true } = share;
    const { shape, requiresGrad } = tensor;
    const own = torch.scope(() => torch.noGrad(() => tensor.detach().narrow(dim, offset, size).clone()));
    set(parameter(own, requiresGrad));
    const whole = wholeSlice(shape);
    const slice = { shape, offset: [...whole.offset].with(dim, offset), size: [...whole.size].with(dim, size) };
    parts.set(own, { slice, placement: "sharded", copies, owned });
    tensor.dispose();
  }
  return parts;
}

function isInside(path: string, outer: string): boolean {
  return path !== outer && (outer === "" || path.startsWith(`${outer}.`));
}

function sameShare(a: Share, b: Share): boolean {
  return a.dim === b.dim && a.offset === b.offset && a.size === b.size;
}

function wrong(message: string): DistributedError {
  return new DistributedError("DISTRIBUTED_ARGUMENT", `parallelizeModule: ${message}`);
}

/** Placement of a parameter of a model that is split over the ranks of a group. */
export interface ParameterPlacement {
  /** The part of the whole parameter that this rank holds. */
  slice: TensorSlice;
  /** "sharded": ranks hold parts. "replicated": all ranks hold the whole parameter, with bit-identical gradients. */
  placement: "sharded" | "replicated";
  /** Number of ranks with the same slice: in a sum over all ranks, each counts 1 / copies of it. */
  copies: number;
  /** Whether this rank owns the slice: one of those ranks does, and writes it to checkpoints. */
  owned: boolean;
}

/** Placements by parameter name, in the order of the module's parameters. */
export type ParameterPlacements = Map<string, ParameterPlacement>;

/** The modules whose dotted path matches; `*` and `?` match characters within one component, as in file names. */
export function modulesMatching(root: Module, pattern: string): [path: string, module: Module][] {
  const parts = pattern.split(".").map((part) => {
    const literal = part.replace(/[\\^$+.()|[\]{}]/g, "\\$&");
    return literal.replaceAll("*", "[^.]*").replaceAll("?", "[^.]");
  });
  const expression = new RegExp(`^${parts.join("\\.")}$`);
  return Array.from(root.namedModules()).filter(([path]) => expression.test(path));
}

/**
 * A slice of a slice, relative to the global tensor.
 *
 * @param outer the part of the global tensor that is split again
 * @param inner a part of `outer`; its `shape` must be the outer `size`
 * @throws DistributedError DISTRIBUTED_ARGUMENT
 */
export function composeSlices(outer: TensorSlice, inner: TensorSlice): TensorSlice {
  const fits = inner.shape.length === outer.size.length && inner.shape.every((length, d) => length === outer.size[d]);
  if (!fits) {
    const message = `a slice of a tensor of shape [${inner.shape}] does not match a slice of size [${outer.size}]`;
    throw new DistributedError("DISTRIBUTED_ARGUMENT", message);
  }
  return { shape: outer.shape, offset: outer.offset.map((begin, d) => begin + inner.offset[d]), size: inner.size };
}
