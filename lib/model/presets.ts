import { type DecoderConfig, type DecoderConfigInput, decoderConfig } from "./config.js";
import { ModelError } from "./errors.js";

// Special tokens of Seed-Coder; the library's small code tokenizer has the same ids.
const TOKENS = { bosTokenId: 0, padTokenId: 1, eosTokenId: 2, maskTokenId: 5 };

const seedCoder8b = {
  ...TOKENS,
  vocabSize: 155_136,
  hiddenSize: 4096,
  intermediateSize: 14_336,
  numLayers: 32,
  numHeads: 32,
  numKeyValueHeads: 8,
  headDim: 128,
  maxPositionEmbeddings: 8192,
  rmsNormEps: 1e-6,
  rope: { type: "default", theta: 500_000 },
  initializerRange: 0.009882118,
} satisfies DecoderConfigInput;

/**
 * Model shapes by name. `seed-coder-8b` is the published base model of Stable-DiffCoder (8.25e9 parameters); the others
 * are smaller versions of its architecture: grouped-query attention, SwiGLU of about 3.5 times the width, no biases.
 */
const presets = {
  /** 5.5M parameters with the library's 4096-token code tokenizer: trains on two CPU cores in minutes. */
  tiny: {
    ...TOKENS,
    vocabSize: 4096,
    hiddenSize: 256,
    intermediateSize: 896,
    numLayers: 4,
    numHeads: 4,
    numKeyValueHeads: 2,
    maxPositionEmbeddings: 2048,
  },
  "125m": {
    ...TOKENS,
    vocabSize: 32_768,
    hiddenSize: 768,
    intermediateSize: 3072,
    numLayers: 12,
    numHeads: 12,
    numKeyValueHeads: 4,
    tieWordEmbeddings: true,
  },
  "350m": {
    ...TOKENS,
    vocabSize: 32_768,
    hiddenSize: 1024,
    intermediateSize: 3584,
    numLayers: 24,
    numHeads: 16,
    numKeyValueHeads: 4,
    tieWordEmbeddings: true,
  },
  "1b": {
    ...TOKENS,
    vocabSize: 32_768,
    hiddenSize: 2048,
    intermediateSize: 8192,
    numLayers: 16,
    numHeads: 32,
    numKeyValueHeads: 8,
    tieWordEmbeddings: true,
    rope: { type: "default", theta: 500_000 },
  },
  "seed-coder-8b": seedCoder8b,
} satisfies Record<string, DecoderConfigInput>;

/** Names of the built-in shapes. */
export type PresetName = keyof typeof presets;

/** All preset names, smallest first. */
export const PRESET_NAMES = Object.keys(presets) as PresetName[];

/**
 * The config of a preset, optionally with other field values (another vocabulary, a longer context).
 *
 * @throws ModelError MODEL_PRESET for an unknown name, ModelConfigError for invalid overrides
 */
export function presetConfig(name: PresetName, overrides: Partial<DecoderConfigInput> = {}): DecoderConfig {
  if (!Object.hasOwn(presets, name)) {
    throw new ModelError("MODEL_PRESET", `no preset '${name}', allowed: ${PRESET_NAMES.join(", ")}`);
  }
  return decoderConfig({ ...presets[name], ...overrides } as DecoderConfigInput);
}
