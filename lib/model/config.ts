import * as z from "zod";
import { problemsOf } from "../base/options.js";
import { init } from "../nn/index.js";
import { ARCHITECTURES, ATTENTION_BIASES, architectureSpec } from "./architectures/index.js";
import { ModelConfigError } from "./errors.js";

const positive = z.int().positive();
const tokenId = z.int().min(0);
const theta = z.number().positive().default(10_000);

/** Rotary embedding: the base, and the scaling of frequencies for longer contexts. */
export const ropeSchema = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("default"), theta }),
  z.strictObject({ type: z.literal("linear"), theta, factor: z.number().min(1) }),
  z.strictObject({
    type: z.literal("llama3"),
    theta,
    factor: z.number().min(1),
    lowFreqFactor: z.number().positive(),
    highFreqFactor: z.number().positive(),
    originalMaxPositionEmbeddings: positive,
  }),
]);
export type RopeConfig = z.infer<typeof ropeSchema>;

const fields = z.strictObject({
  architecture: z.enum(ARCHITECTURES).default("LlamaForCausalLM"),
  vocabSize: positive,
  hiddenSize: positive,
  intermediateSize: positive,
  numLayers: positive,
  numHeads: positive,
  numKeyValueHeads: positive.optional(),
  headDim: positive.optional(),
  maxPositionEmbeddings: positive.default(8192),
  rmsNormEps: z.number().positive().default(1e-6),
  rope: ropeSchema.default({ type: "default", theta: 10_000 }),
  attentionBias: z.enum(ATTENTION_BIASES).optional(),
  tieWordEmbeddings: z.boolean().default(false),
  initializerRange: z.number().positive().max(1).optional(),
  bosTokenId: tokenId.nullable().default(null),
  eosTokenId: z
    .union([tokenId, z.array(tokenId).nonempty()])
    .nullable()
    .default(null),
  padTokenId: tokenId.nullable().default(null),
  maskTokenId: tokenId.nullable().default(null),
  dtype: z.enum(["float32", "float16", "bfloat16", "float64"]).optional(),
  other: z.record(z.string(), z.unknown()).default({}),
});

/**
 * The shape of a decoder. Defaults are filled in and dimensions checked against each other: `numHeads` is a multiple of
 * `numKeyValueHeads` (grouped-query attention), `headDim` (default hiddenSize / numHeads) is even, and the architecture
 * supports the biases. `dtype` is the checkpoint's. `other` holds the keys of config.json that the decoder does not
 * use, so that they survive a round trip.
 */
export const decoderConfigSchema = fields.transform((config, context) => {
  const fail = (path: keyof typeof config, message: string) =>
    context.addIssue({ code: "custom", path: [path], message });
  const numKeyValueHeads = config.numKeyValueHeads ?? config.numHeads;
  if (config.numHeads % numKeyValueHeads !== 0) {
    fail("numKeyValueHeads", `${numKeyValueHeads} does not divide the ${config.numHeads} attention heads`);
  }
  if (config.headDim === undefined && config.hiddenSize % config.numHeads !== 0) {
    fail(
      "numHeads",
      `${config.numHeads} does not divide the hidden size ${config.hiddenSize}: change it, or give headDim`,
    );
  }
  const headDim = config.headDim ?? Math.floor(config.hiddenSize / config.numHeads);
  if (headDim % 2 !== 0) fail("headDim", `${headDim} is odd, rotary embedding needs pairs`);
  const { attentionBiases } = architectureSpec(config.architecture);
  const attentionBias = config.attentionBias ?? attentionBiases[0];
  if (!attentionBiases.includes(attentionBias)) {
    const allowed = attentionBiases.map((bias) => `'${bias}'`).join(" or ");
    fail("attentionBias", `${config.architecture} has only ${allowed}`);
  }
  for (const key of ["bosTokenId", "padTokenId", "maskTokenId"] as const) {
    const id = config[key];
    if (id !== null && id >= config.vocabSize) fail(key, `${id} is outside the vocabulary of ${config.vocabSize}`);
  }
  const initializerRange = config.initializerRange ?? init.smallInit(config.hiddenSize);
  return { ...config, numKeyValueHeads, headDim, attentionBias, initializerRange };
});

/** A validated config with all defaults filled in. */
export type DecoderConfig = z.output<typeof decoderConfigSchema>;
/** A config as written, see {@link decoderConfigSchema} for the defaults. */
export type DecoderConfigInput = z.input<typeof decoderConfigSchema>;

/**
 * Checks a config written in TypeScript or YAML.
 *
 * @throws ModelConfigError with the path and the allowed values
 */
export function decoderConfig(input: DecoderConfigInput): DecoderConfig {
  const parsed = decoderConfigSchema.safeParse(input);
  if (parsed.success) return parsed.data;
  const message = problemsOf("the decoder config is invalid", decoderConfigSchema, input, parsed.error);
  throw new ModelConfigError(message, { cause: parsed.error });
}
