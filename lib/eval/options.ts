import * as z from "zod";
import { bytesSchema, fileSchema, folderSchema } from "../base/option-fields.js";
import { commitFields, generateOptionsSchema } from "../engine/options.js";

const request = generateOptionsSchema.shape;

/** How a model writes its answers. Kept in the results: scores of other settings are other scores. */
export const decodingSchema = z.strictObject({
  temperature: request.temperature,
  topP: request.topP,
  topK: request.topK,
  maxTokens: z
    .number()
    .int()
    .min(1)
    .optional()
    .describe("maximum number of tokens of an answer; default: the benchmark's"),
  mode: request.mode,
  blockSize: request.blockSize,
  ...commitFields,
});
export type Decoding = z.output<typeof decodingSchema>;

/** How answers are judged. */
export const scoringSchema = z.strictObject({
  concurrency: z
    .number()
    .int()
    .min(1)
    .max(1024)
    .optional()
    .describe("programs that run at a time; default: one per core"),
  memory: bytesSchema.default(4 * 2 ** 30).describe("address space that a program may use"),
  python: fileSchema.optional().describe("Python that programs run on; default: the system's python3"),
  allowUnsandboxed: z
    .boolean()
    .default(false)
    .describe("run programs without isolation where bubblewrap is missing: with your own permissions and files"),
});
export type Scoring = z.output<typeof scoringSchema>;

/** Options of {@link evaluate}. */
export const evaluationSchema = z
  .strictObject({
    ...decodingSchema.shape,
    ...scoringSchema.shape,
    data: fileSchema
      .optional()
      .describe("the benchmark's file, or the folder of all of them; default: DIFFCODER_BENCHMARKS"),
    prompt: z
      .string()
      .min(1)
      .default("base")
      .describe('how the model is asked: "base" (a text to continue), "chat", or another of the benchmark\'s prompts'),
    samples: z.number().int().min(1).max(10_000).default(1).describe("answers to each problem (n)"),
    k: z.array(z.number().int().min(1)).default([1]).describe("values of k for pass@k, at most `samples`"),
    seed: z.number().int().min(0).default(0).describe("random seed of the sampling and of the intervals"),
    limit: z.number().int().min(1).optional().describe("only the first problems; such a score is not the benchmark's"),
    outputDir: folderSchema.describe("folder of the results; a run that is there is continued"),
  })
  .superRefine(({ samples, k, temperature, steps, threshold }, { addIssue }) => {
    const issue = (path: string, message: string) => addIssue({ code: "custom", path: [path], message });
    const high = k.find((each) => each > samples);
    if (high !== undefined) issue("k", `pass@${high} needs at least ${high} samples of every problem, got ${samples}`);
    if (samples > 1 && temperature === 0)
      issue("samples", "several samples would be the same: set a temperature above 0");
    if (steps !== undefined && threshold !== undefined) issue("threshold", "steps and threshold cannot be combined");
  });
export type EvaluationOptions = z.input<typeof evaluationSchema>;
export type EvaluationSettings = z.output<typeof evaluationSchema>;
