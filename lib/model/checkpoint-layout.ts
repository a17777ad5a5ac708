/** Files of the Hugging Face layout. */
export const CONFIG_FILE = "config.json";
export const WEIGHTS_FILE = "model.safetensors";
export const INDEX_FILE = "model.safetensors.index.json";

/**
 * The Hugging Face name of a decoder's parameter: `layers.0.selfAttn.qProj.weight` is
 * `model.layers.0.self_attn.q_proj.weight`, and only `lmHead` lives outside `model.`.
 */
export function weightName(parameter: string): string {
  const snake = parameter.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return snake.startsWith("lm_head.") ? snake : `model.${snake}`;
}

/** Tensors of older checkpoints that a decoder computes itself. */
export function isDerivedWeight(name: string, tied: boolean): boolean {
  return name.endsWith(".rotary_emb.inv_freq") || (tied && name === "lm_head.weight");
}
