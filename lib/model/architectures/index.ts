import type { ArchitectureSpec } from "./architecture.js";
import { diffcoder } from "./diffcoder.js";
import { llama } from "./llama.js";
import { mistral } from "./mistral.js";
import { qwen2 } from "./qwen2.js";
import { qwen3 } from "./qwen3.js";

/** All supported architectures, by their name in `architectures` of config.json. */
const table = {
  LlamaForCausalLM: llama,
  Qwen2ForCausalLM: qwen2,
  Qwen3ForCausalLM: qwen3,
  MistralForCausalLM: mistral,
  StableDiffcoderForCausalLM: diffcoder,
  SeedDiffcoderForCausalLM: diffcoder,
} satisfies Record<string, ArchitectureSpec>;

/** The name of an architecture in config.json. */
export type Architecture = keyof typeof table;

/** The names of all architectures. */
export const ARCHITECTURES = Object.keys(table) as [Architecture, ...Architecture[]];

/** The specification of an architecture. */
export function architectureSpec(name: Architecture): ArchitectureSpec {
  return table[name];
}

/** The first architecture with a `model_type`, for a config.json without `architectures`. */
export function architectureOfType(modelType: unknown): Architecture | undefined {
  return ARCHITECTURES.find((name) => table[name].modelType === modelType);
}

export { type ArchitectureSpec, ATTENTION_BIASES, type AttentionBias, type LayerCut } from "./architecture.js";
