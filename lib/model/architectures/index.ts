import type { ArchitectureSpec } from "./architecture.js";
import { diffcoder } from "./diffcoder.js";
import { llama } from "./llama.js";
import { mistral } from "./mistral.js";
import { qwen2 } from "./qwen2.js";
import { qwen3 } from "./qwen3.js";

/** All architectures that the decoder runs, by the name they have in `architectures` of config.json. */
const table = {
  LlamaForCausalLM: llama,
  Qwen2ForCausalLM: qwen2,
  Qwen3ForCausalLM: qwen3,
  MistralForCausalLM: mistral,
  StableDiffcoderForCausalLM: diffcoder,
  SeedDiffcoderForCausalLM: diffcoder,
} satisfies Record<string, ArchitectureSpec>;

/** The name of an architecture, as config.json has it. */
export type Architecture = keyof typeof table;

/** The names of all architectures. */
export const ARCHITECTURES = Object.keys(table) as [Architecture, ...Architecture[]];

/** What an architecture is. */
export function architectureSpec(name: Architecture): ArchitectureSpec {
  return table[name];
}

/** The first architecture of a `model_type`, for a config.json that names none. */
export function architectureOfType(modelType: unknown): Architecture | undefined {
  return ARCHITECTURES.find((name) => table[name].modelType === modelType);
}

export { type ArchitectureSpec, ATTENTION_BIASES, type AttentionBias, type LayerCut } from "./architecture.js";
