import type { ArchitectureSpec } from "./architecture.js";
import { llama } from "./llama.js";

/**
 * Qwen3 (transformers' Qwen3ForCausalLM): Llama with norms of q and k, whose weight is shared by all heads, and with an
 * independent head size. `sliding_window` has an effect only with `use_sliding_window`, which is rejected.
 */
export const qwen3: ArchitectureSpec = {
  ...llama,
  modelType: "qwen3",
  qkNorm: true,
  configDefaults: { num_key_value_heads: 32, head_dim: 128, max_position_embeddings: 32_768 },
  configLimits: [],
  writeConfig: ({ attentionBias }) => ({ attention_bias: attentionBias === "qkvo" }),
  layerCuts: { ...llama.layerCuts, "selfAttn.qNorm": "partialGradient", "selfAttn.kNorm": "partialGradient" },
};
