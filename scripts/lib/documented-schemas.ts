// The schemas whose options have a table in docs/, by the name in the comment before it: <!-- options: NAME -->.
import * as z from "zod";
import { dataOptionsSchema, sftDataOptionsSchema } from "../../lib/data/index.js";
import {
  autoregressiveSchema,
  bidirectionalSchema,
  blockDiffusionSchema,
  warmupSchema,
} from "../../lib/diffusion/index.js";
import {
  blockGenerationSchema,
  engineOptionsSchema,
  generateOptionsSchema,
  scoreOptionsSchema,
} from "../../lib/engine/options.js";
import { decodingSchema, evaluationSchema, scoringSchema } from "../../lib/eval/options.js";
import { parallelSchema } from "../../lib/parallel/options.js";
import { serverOptionsSchema } from "../../lib/server/options.js";
import { dllmRequestSchema } from "../../lib/server/protocol/requests.js";
import { adamwSchema, muonSchema, recipeSchema, sgdSchema } from "../../lib/train/index.js";
import { runOptionsSchema, runSettingsSchema } from "../../lib/train/run-options.js";
import { customStageSchema } from "../../lib/train/stage.js";

/** The options of a schema that another one does not have. */
function without(schema: z.ZodObject, other: z.ZodObject): z.ZodObject {
  return z.strictObject(Object.fromEntries(Object.entries(schema.shape).filter(([key]) => !(key in other.shape))));
}

// zod's omit() and pick() refuse a schema with checks of several keys.
const stageOptions = z.strictObject(customStageSchema.shape);
/** Options that only `stage` takes. */
const customStage = { objective: true, kind: true, positionsPerToken: true, fingerprint: true } as const;

export const documentedSchemas: Readonly<Record<string, z.ZodObject>> = {
  blockDiffusion: blockDiffusionSchema,
  bidirectional: bidirectionalSchema,
  warmup: warmupSchema,
  autoregressive: autoregressiveSchema,
  stage: stageOptions.omit(customStage),
  customStage: stageOptions.pick(customStage),
  adamw: adamwSchema,
  muon: muonSchema,
  muonAdamw: muonSchema.shape.adamw.unwrap(),
  sgd: sgdSchema,
  recipe: without(recipeSchema, runSettingsSchema),
  run: runSettingsSchema,
  // Beside those that a file can hold.
  runValues: without(runOptionsSchema, runSettingsSchema),
  data: dataOptionsSchema,
  sftData: sftDataOptionsSchema,
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
  dllm: dllmRequestSchema,
  evaluation: without(without(z.strictObject(evaluationSchema.shape), decodingSchema), scoringSchema),
  decoding: decodingSchema,
  scoring: scoringSchema,
};
