// The schemas whose options have a table in docs/, by the name in the comment before it: <!-- options: NAME -->.
import * as z from "zod";
import {
  blockGenerationSchema,
  engineOptionsSchema,
  generateOptionsSchema,
  scoreOptionsSchema,
} from "../../lib/engine/options.js";
import { decodingSchema, evaluationSchema, scoringSchema } from "../../lib/eval/options.js";
import { parallelSchema } from "../../lib/parallel/options.js";
import { serverOptionsSchema } from "../../lib/server/options.js";

export const documentedSchemas: Readonly<Record<string, z.ZodObject>> = {
  parallel: parallelSchema,
  timeouts: parallelSchema.shape.timeouts.unwrap(),
  engine: engineOptionsSchema,
  generate: generateOptionsSchema,
  // Beside those of a request.
  generation: blockGenerationSchema.pick({
    ...{ blockSize: true, shift: true, maskId: true, maxNumBatchedTokens: true, signal: true },
  }),
  score: scoreOptionsSchema,
  server: serverOptionsSchema,
  evaluation: z.strictObject({
    ...pick(evaluationSchema.shape, "data", "prompt", "samples", "k", "seed", "limit", "outputDir"),
  }),
  decoding: decodingSchema,
  scoring: scoringSchema,
};

/** Some fields of a shape. */
function pick<T extends object, K extends keyof T>(shape: T, ...keys: K[]): Pick<T, K> {
  return Object.fromEntries(keys.map((key) => [key, shape[key]])) as Pick<T, K>;
}
