import * as z from "zod";

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
