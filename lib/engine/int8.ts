import type { Decoder } from "../model/decoder.js";
import { layerMatrices } from "../model/decoder.js";
import { type Linear, wrapForward } from "../nn/index.js";
import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { EngineError } from "./errors.js";

/**
 * Replaces every matrix of a decoder by int8 with a scale per output channel, and frees the matrices it replaces; the
 * head keeps its own too, for scoring and where it shares the embedding's. Embedding, norms and attention stay as they
 * are. Activations are rounded to int8 row by row as they come to a matrix, so products are of integers and exact. For
 * inference only: the model can no longer be trained, saved or moved.
 *
 * @returns frees what was made
 * @throws EngineError ENGINE_OPTIONS elsewhere than on the CPU
 */
export function quantizeWeights(model: Decoder): () => void {
  if (model.device !== "cpu") {
    throw new EngineError("ENGINE_OPTIONS", `quantization: int8 runs on the CPU, the model is on ${model.device}`);
  }
  const made: Tensor[] = [];
  const pack = (weight: Tensor): [packed: Tensor, scales: Tensor] => {
    const pair = torch.noGrad(() => torch.ops.diffcoder.int8_pack(weight)) as [Tensor, Tensor];
    made.push(...torch.keep(pair));
    return pair;
  };
  for (const [, linear] of layerMatrices(model)) {
    const [packed, scales] = pack(linear.weight);
    const { bias } = linear;
    wrapForward<Linear>(linear, () => (x) => torch.ops.diffcoder.int8_linear(x, packed, scales, bias) as Tensor);
    // A parameter of no elements: what walks over parameters still finds one.
    linear.weight.dispose();
    linear.weight = torch.keep(torch.empty([0], { dtype: model.embedTokens.weight.dtype }));
  }
  const [packed, scales] = pack(model.headWeight);
  Object.defineProperty(model, "logits", {
    value: (hidden: Tensor) => torch.ops.diffcoder.int8_linear(hidden, packed, scales, null) as Tensor,
    configurable: true,
  });
  return () => {
    for (const tensor of made) tensor.dispose();
  };
}
