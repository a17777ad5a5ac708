import { DistributedError } from "../distributed/index.js";
import type { ParallelSettings } from "./options.js";

export type MeshDimension = "replicate" | "shard" | "context" | "tensor";
/** Sizes by dimension, outermost first. */
export type MeshShape = Record<MeshDimension, number>;

/**
 * The mesh that options ask for on so many processes. `replicate` takes what the others leave.
 *
 * @throws DistributedError DISTRIBUTED_ARGUMENT where they do not fit, with what would
 */
export function meshShape(settings: ParallelSettings, worldSize: number): MeshShape {
  const { context, tensor, shard = 1 } = settings;
  const inner = shard * context * tensor;
  const replicate = settings.replicate ?? worldSize / inner;
  if (!Number.isInteger(replicate) || replicate * inner !== worldSize) {
    const asked = `shard ${shard} x context ${context} x tensor ${tensor}`;
    const whole = settings.replicate === undefined ? asked : `replicate ${settings.replicate} x ${asked}`;
    const message = `parallel: ${whole} does not fit ${worldSize} processes`;
    throw new DistributedError("DISTRIBUTED_ARGUMENT", `${message}; start a multiple of ${inner}, or change the sizes`);
  }
  return { replicate, shard, context, tensor }; // the innermost vary fastest: ranks that talk most are neighbours
}

/** The part of `total` things that the `index`-th of `parts` takes: as equal as can be, [from, to). */
export function shareOf(total: number, index: number, parts: number): { from: number; to: number } {
  return { from: Math.floor((total * index) / parts), to: Math.floor((total * (index + 1)) / parts) };
}
