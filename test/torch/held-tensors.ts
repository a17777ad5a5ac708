import * as torch from "../../lib/torch/index.js";

/**
 * Tensors made so far less those that a scope or dispose() freed. What earlier code merely dropped does not matter: it
 * counts the same before and after it is collected. Work that frees all it made leaves the number as it was.
 */
export function heldTensors(): number {
  const { tensors, collected } = torch.memory();
  return tensors + collected;
}
