import type { ArchitectureSpec } from "./architecture.js";
import { llama } from "./llama.js";

/**
 * Qwen2 and Qwen2.5-Coder (transformers' Qwen2ForCausalLM): Llama with biases on q, k and v. `sliding_window` has an
 * effect only with `use_sliding_window`, which is rejected.
 */
export const qwen2: ArchitectureSpec = {
  ...llama,
  modelType: "qwen2",
  attentionBiases: ["qkv"],
  configLimits: [],
  readAttentionBias: () => "qkv",
  writeConfig: () => ({}),
};
