import * as z from "zod";

const size = z.int().min(1);
const seconds = z.number().positive().meta({ unit: "seconds" });

/** How a model and its batches are distributed over the processes of a run: for TypeScript, YAML and the command line. */
export const parallelSchema = z.strictObject({
  replicate: size.optional().describe("copies of the model; default: as many as the other dimensions leave processes"),
  shard: size
    .optional()
    .describe("parts into which parameters, gradients and optimizer state are split (ZeRO-3); default: 1"),
  context: size.default(1).describe("parts into which sequences are split"),
  tensor: size.default(1).describe("parts into which heads, feed-forward layers and vocabulary are split"),
  activationCheckpointing: z
    .union([z.enum(["none", "full"]), size])
    .default("none")
    .describe(
      'layers that keep only their inputs and repeat their forward pass during backward: "full" for all, or n for every ' +
        "n-th; also in a single process",
    ),
  gatherDtype: z
    .enum(["auto", "float32", "bfloat16"])
    .default("auto")
    .describe(
      "data type of gathered parameters in transfer and computation; auto: bfloat16 if all stages have that precision; " +
        "gradients are always summed in float32",
    ),
  reshardAfterForward: z
    .boolean()
    .default(true)
    .describe("free gathered parameters between forward and backward: less memory, one more gather"),
  bucketMegabytes: z
    .number()
    .positive()
    .optional()
    .describe("size of the gradient buckets of replicas (`shard: 1`); default: 25, but at most a sixth of the model"),
  backend: z
    .enum(["gloo", "nccl"])
    .optional()
    .describe(
      "communication library; default: NCCL on CUDA, else Gloo; a TypeScript file that calls `initProcessGroup` itself " +
        "sets it there",
    ),
  timeouts: z
    .strictObject({
      init: seconds.default(300).describe("time for all processes to join: machines of a job may start minutes apart"),
      firstStep: seconds
        .default(300)
        .describe(
          "for a collective in the first step of each stage, which loads kernels, around hooks and checkpoints",
        ),
      step: seconds.default(100).describe("for a collective in any other step"),
    })
    .prefault({})
    .describe("how long to wait for a process that does not answer before the run ends"),
});

export type ParallelOptions = z.input<typeof parallelSchema>;
export type ParallelSettings = z.output<typeof parallelSchema>;
