import type { ArchitectureSpec } from "./architecture.js";
import { booleanOf } from "./architecture.js";

/**
 * Llama 2 and 3, Seed-Coder, DeepSeek-Coder (transformers' LlamaForCausalLM): grouped-query attention and SwiGLU with
 * pre-norm RMSNorm and rotary positions. The other architectures are defined by their differences from it.
 */
export const llama: ArchitectureSpec = {
  modelType: "llama",
  attentionBiases: ["none", "qkvo"],
  qkNorm: false,
  configDefaults: {},
  configLimits: [
    {
      key: "sliding_window",
      allowed: "null",
      // With `use_sliding_window` that key is rejected already.
      accepts: (_, source) => Boolean(source.use_sliding_window),
    },
  ],
  ownKeys: [],
  keptKeys: [],
  readAttentionBias: (source, problems) => (booleanOf(source, "attention_bias", problems) ? "qkvo" : "none"),
  writeConfig: ({ attentionBias }) => ({ attention_bias: attentionBias === "qkvo", mlp_bias: false }),
  layerCuts: {
    selfAttn: "sharedInput",
    "selfAttn.qProj": "heads",
    "selfAttn.kProj": "keyValueHeads",
    "selfAttn.vProj": "keyValueHeads",
    "selfAttn.oProj": "headInputs",
    mlp: "sharedInput",
    "mlp.gateProj": "features",
    "mlp.upProj": "features",
    "mlp.downProj": "featureInputs",
  },
  layerMatrices: [
    "selfAttn.qProj",
    "selfAttn.kProj",
    "selfAttn.vProj",
    "selfAttn.oProj",
    "mlp.gateProj",
    "mlp.upProj",
    "mlp.downProj",
  ],
};
