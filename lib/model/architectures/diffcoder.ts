import type { ArchitectureSpec } from "./architecture.js";
import { llama } from "./llama.js";

/**
 * Stable-DiffCoder, under its current and its former name: Llama, decoded by block diffusion. The published config.json
 * does not contain the mask token `<[MASK_TOKEN]>`. Its `model_type` varies and is kept, because remote code reads it.
 */
export const diffcoder: ArchitectureSpec = {
  ...llama,
  keptKeys: ["model_type"],
  maskTokenId: 5,
};
