import * as z from "zod";
import { DistributedError } from "../distributed/index.js";

const size = z.int().min(1);

/** How a model and its batches lie over the processes of a run: for TypeScript, YAML and the command line alike. */
export const parallelSchema = z.strictObject({
  replicate: size.optional().describe("copies of the model; default: what the other dimensions leave of the processes"),
  shard: size
    .optional()
    .describe("parts that parameters, gradients and optimiser state are cut into (ZeRO-3); default 1"),
  context: size.default(1).describe("parts that sequences are cut into"),
  tensor: size.default(1).describe("parts that heads, feed-forward and vocabulary are cut into"),
  activationCheckpointing: z
    .union([z.enum(["none", "full"]), size])
    .default("none")
    .describe('layers that keep no activations: "full" all of them, n every n-th'),
  gatherDtype: z
    .enum(["auto", "float32", "bfloat16"])
    .default("auto")
    .describe("of sharded parameters while they are computed with; auto: bfloat16 where the stages' precision is"),
  reshardAfterForward: z
    .boolean()
    .default(true)
    .describe("give gathered parameters back between forward and backward: less memory, more communication"),
  bucketMegabytes: z
    .number()
    .positive()
    .optional()
    .describe("gradients that replicas send together; default 25, but no more than a sixth of the model"),
  backend: z.enum(["gloo", "nccl"]).optional().describe("default: NCCL where CUDA is, else Gloo"),
  timeouts: z
    .strictObject({
      init: z.number().positive().default(300).describe("seconds for all processes to come"),
      firstStep: z
        .number()
        .positive()
        .default(300)
        .describe("for a collective of each stage's first step, and at checkpoints"),
      step: z.number().positive().default(100).describe("for a collective of every other step"),
    })
    .prefault({})
    .describe("seconds until a process that does not answer ends the run"),
});

export type ParallelOptions = z.input<typeof parallelSchema>;
export type ParallelSettings = z.output<typeof parallelSchema>;

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
