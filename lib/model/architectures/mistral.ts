import type { ArchitectureSpec } from "./architecture.js";
import { brief } from "./architecture.js";
import { llama } from "./llama.js";

/**
 * Mistral (transformers' MistralForCausalLM): Llama without biases, whose attention may be limited to the last
 * `sliding_window` positions. A window of at least the whole context has no effect; smaller windows are rejected.
 */
export const mistral: ArchitectureSpec = {
  ...llama,
  modelType: "mistral",
  attentionBiases: ["none"],
  configDefaults: {
    num_key_value_heads: 8,
    max_position_embeddings: 131_072,
    sliding_window: 4096,
    bos_token_id: 1,
    eos_token_id: 2,
  },
  configLimits: [
    {
      key: "sliding_window",
      allowed: (source) => {
        const { sliding_window: window, max_position_embeddings: context } = source;
        const allowed = `null, or max_position_embeddings (${brief(context)}) or more: sliding-window attention is not supported`;
        if (!isCount(window)) return allowed;
        return `${allowed}. To use the model within its window, set max_position_embeddings to ${window}`;
      },
      accepts: (window, source) => isCount(window) && window >= Number(source.max_position_embeddings),
    },
    { key: "attention_bias", allowed: "false", accepts: (value) => value === false },
  ],
  ownKeys: ["sliding_window"],
  readAttentionBias: () => "none",
  // Written even if it is null, because transformers' default for a missing key is 4096.
  writeConfig: () => ({ sliding_window: null }),
};

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}
