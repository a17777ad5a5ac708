import type { ArchitectureSpec } from "./architecture.js";
import { llama } from "./llama.js";

/**
 * Stable-DiffCoder, under its present and its former name: Llama, decoded by block diffusion. The published config.json
 * does not name the mask token `<[MASK_TOKEN]>`, and its `model_type` is the checkpoint's own affair: remote code reads it.
 */
export const diffcoder: ArchitectureSpec = {
  ...llama,
  keptKeys: ["model_type"],
  maskTokenId: 5,
};
